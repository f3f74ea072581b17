"""Progressive resizing: the first part of a training sees smaller images, which cost less."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from pocketpipe.doors import Value
from pocketpipe.errors import UserError, first_line

if TYPE_CHECKING:
    from torch import Tensor, nn


class ProgressiveResizing(Value):
    """Images at `scale` of their side until the share `until` of the training is done, then whole.

    Small images show a network what is coarse first, at the square of the scale in cost (Howard 2018, fast.ai's
    DAWNBench entry; Tan and Le 2021, EfficientNetV2, section 4). Validation and the result are at full size.

    >>> ProgressiveResizing(scale=0.75, until=0.5).side(32)
    24
    """

    scale: Annotated[float, Field(gt=0.0, lt=1.0)]
    until: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5

    def side(self, full: int) -> int:
        """Pixels of a side that has `full` at full size."""
        return max(1, round(full * self.scale))

    def shown(self, images: Tensor, progress: float) -> Tensor:
        """Prepared `images` (n, channels, height, width) as the network sees them after the share `progress`."""
        from torch.nn import functional

        if progress >= self.until:
            return images
        small = (self.side(images.shape[-2]), self.side(images.shape[-1]))
        return functional.interpolate(images, small, mode="bilinear", antialias=True)

    def check(self, network: nn.Module, input_shape: tuple[int, ...]) -> None:
        """Raises UserError if the network cannot take smaller inputs, or answers them with outputs of another shape."""
        import torch

        from pocketpipe.compression.modules import evaluating

        if len(input_shape) != 3:
            raise UserError(f"progressive_resizing: inputs of shape {input_shape} are no images; set it to null")
        whole = torch.zeros(1, *input_shape)
        try:
            with evaluating(network), torch.no_grad():
                shapes = [network(images).shape for images in (whole, self.shown(whole, 0.0))]
        except Exception as error:  # whatever a network says to a size that it does not know
            raise UserError(
                f"progressive_resizing: the network takes no images smaller than {input_shape} ({first_line(error)}); "
                "set it to null"
            ) from error
        if shapes[0] != shapes[1]:
            raise UserError("progressive_resizing: smaller images have outputs of another shape; set it to null")
