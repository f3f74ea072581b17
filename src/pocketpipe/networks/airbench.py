"""A wide and shallow network that learns CIFAR-10 in few epochs (Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds").

A fifth more MACs than ResNet-56 and far fewer epochs: a teacher for smaller networks. Other than there, the stem is
trained (the paper whitens, section 3.2) and the activation is ReLU, which every target has.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from pocketpipe.errors import UserError
from pocketpipe.network import NETWORKS
from pocketpipe.networks.images import require_image
from pocketpipe.networks.initialization import initialize

STEM = 32
WIDTHS = (64, 256, 256)
SMALLEST = 8


class Group(nn.Module):
    """A 3x3 convolution whose result is pooled to half the side, and another one."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels_in, H, W) -> (N, channels, H / 2, W / 2)."""
        x = functional.relu(self.bn1(functional.max_pool2d(self.conv1(x), 2)))
        return functional.relu(self.bn2(self.conv2(x)))


class Airbench(nn.Module):
    """A stem, three groups, the maximum of each channel, a linear layer."""

    def __init__(self, channels_in: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, STEM, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        channels = (STEM, *WIDTHS)
        self.groups = nn.Sequential(*(Group(channels[i], channels[i + 1]) for i in range(len(WIDTHS))))
        self.linear = nn.Linear(WIDTHS[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels_in, H, W) -> logits (N, outputs)."""
        x = self.groups(functional.relu(self.bn1(self.conv1(x))))
        logits: Tensor = self.linear(x.amax((2, 3)))
        return logits


@NETWORKS.register("airbench")
def airbench(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Input (channels, height, width), at least 8x8; 151.9 M MACs at 3x32x32."""
    channels, height, width = require_image("airbench", input_shape)
    if min(height, width) < SMALLEST:
        raise UserError(
            f"network 'airbench' halves images three times; {height}x{width} is below {SMALLEST}x{SMALLEST}"
        )
    network = initialize(Airbench(channels, outputs))
    with torch.no_grad():
        for conv in network.groups.modules():
            if isinstance(conv, nn.Conv2d):  # what comes in goes through at first (section 3.3)
                nn.init.dirac_(conv.weight[: conv.in_channels])
    return network
