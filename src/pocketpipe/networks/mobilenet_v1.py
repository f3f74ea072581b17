"""MobileNet-v1 (Howard et al. 2017): depthwise and 1x1 convolutions in turn."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from pocketpipe.network import NETWORKS
from pocketpipe.networks.images import fitting_strides, require_image
from pocketpipe.networks.initialization import initialize

STEM = 32
BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
"""Output channels and stride of each pair of convolutions."""


class MobileNetV1(nn.Module):
    """A 3x3 convolution, 13 separable ones, average pooling, a linear layer."""

    def __init__(self, input_shape: tuple[int, ...], outputs: int, width: float) -> None:
        super().__init__()
        strides = fitting_strides([2, *(stride for _, stride in BLOCKS)], input_shape)
        channels = [max(1, round(count * width)) for count in (STEM, *(count for count, _ in BLOCKS))]
        self.stem = _convolution(input_shape[0], channels[0], 3, strides[0])
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(_convolution(before, before, 3, stride, groups=before), _convolution(before, after, 1, 1))
                for before, after, stride in zip(channels, channels[1:], strides[1:], strict=False)
            )
        )
        self.classifier = nn.Linear(channels[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels_in, H, W) -> logits (N, outputs)."""
        logits: Tensor = self.classifier(self.blocks(self.stem(x)).mean((2, 3)))
        return logits


def _convolution(channels_in: int, channels: int, kernel: int, stride: int, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
    )


@NETWORKS.register("mobilenet_v1")
def mobilenet_v1(
    input_shape: tuple[int, ...], outputs: int, *, width: Annotated[float, Field(gt=0, le=4)] = 1.0
) -> nn.Module:
    """Input (channels, height, width); `width` multiplies every channel count.

    Small images are halved less often (`images.fitting_strides`).
    """
    return initialize(MobileNetV1(require_image("mobilenet_v1", input_shape), outputs, width))
