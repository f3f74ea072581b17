"""Random views of whole batches of images at once; each example draws its own shift or flip."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


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
