"""A user's own networks."""

from math import prod

import torch
from torch import nn


def build(input_shape: tuple[int, ...], outputs: int, *, width: int = 16) -> nn.Module:
    """Two convolutions with a shortcut around the second, and a linear head."""
    return Small(input_shape[0], outputs, width)


class Small(nn.Module):
    """Convolution, residual convolution, head."""

    def __init__(self, channels: int, outputs: int, width: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width))
        self.wide = nn.Sequential(nn.Conv2d(width, 2 * width, 3, padding=1, stride=2), nn.ReLU())
        self.head = nn.Linear(2 * width, outputs)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.first(images)
        features = torch.relu(features + self.second(features))
        return self.head(self.wide(features).mean((2, 3)))


def tiny(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """What is traced at once, for runs in which something else is the matter; channels and bytes can be saved."""
    return nn.Sequential(nn.Flatten(), nn.Linear(prod(input_shape), 128), nn.ReLU(), nn.Linear(128, outputs))


def rigid(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """A network whose only channels cannot be thinned: the code names their number."""
    return Rigid(input_shape, outputs)


class Rigid(nn.Module):
    """Its `view` holds the number of channels as a constant."""

    def __init__(self, input_shape: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(input_shape[0], 12, 3, padding=1)
        self.head = nn.Linear(12 * prod(input_shape[1:]), outputs)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.conv(images)
        paired = features.view(features.shape[0], 6, 2, features.shape[2], features.shape[3]).sum(2, keepdim=True)
        return self.head((features.view_as(features) + paired.expand(-1, 6, 2, -1, -1).flatten(1, 2)).flatten(1))
