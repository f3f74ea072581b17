"""Random views of whole batches of images at once; each example draws its own shift, flip or hole."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from pocketpipe.task import Preprocessing


def random_shift(images: torch.Tensor, pixels: int, generator: torch.Generator) -> torch.Tensor:
    """Images (N, C, H, W) moved by up to `pixels` in y and x, zeros moving in: "pad and crop" (He 2016)."""
    import torch
    from torch.nn.functional import pad

    count, _, height, width = images.shape
    padded = pad(images, (pixels, pixels, pixels, pixels))
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view: (N, C, 2 pixels + 1, 2 pixels + 1, H, W)
    dy, dx = torch.randint(0, 2 * pixels + 1, (2, count), generator=generator, device=generator.device)
    return windows[torch.arange(count, device=images.device), :, dy.to(images.device), dx.to(images.device)]


def random_flip(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Images (N, C, H, W), each mirrored left-right with probability 1/2."""
    import torch

    mirrored = torch.randint(0, 2, (len(images), 1, 1, 1), generator=generator, device=generator.device).bool()
    return torch.where(mirrored.to(images.device), images.flip(-1), images)


def cutout(images: torch.Tensor, side: int, preprocessing: Preprocessing, generator: torch.Generator) -> torch.Tensor:
    """Images (N, C, H, W), each with a square of `side` pixels (0: none) in the mean colour (DeVries and Taylor 2017).

    Its centre may be any pixel, so that at the edges a part of it falls outside.
    """
    import torch

    if not side:
        return images
    count, _, height, width = images.shape
    middle_y, middle_x = (
        torch.randint(0, extent, (count, 1, 1), generator=generator, device=generator.device).to(images.device)
        for extent in (height, width)
    )
    y = torch.arange(height, device=images.device)[:, None] - middle_y + side // 2
    x = torch.arange(width, device=images.device)[None, :] - middle_x + side // 2
    hidden = (y >= 0) & (y < side) & (x >= 0) & (x < side)
    mean = torch.tensor(preprocessing.mean, device=images.device) / preprocessing.scale
    return torch.where(hidden[:, None], mean.round().to(images.dtype)[:, None, None], images)
