"""ResNets for small images (He et al. 2016, section 4.2): 6n + 2 layers, 16/32/64 channels, shortcut option A.

Keys: `conv1, bn1, layer{1,2,3}.{i}.{conv1,bn1,conv2,bn2}, linear`, as in published CIFAR-10 weights.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from pocketpipe.network import NETWORKS
from pocketpipe.networks.images import require_image
from pocketpipe.networks.initialization import initialize
from pocketpipe.networks.shortcuts import PadShortcut

STAGES = (16, 32, 64)


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        added = channels - channels_in
        self.shortcut: nn.Module = nn.Identity()
        if added or stride != 1:
            before = added // 2
            self.shortcut = PadShortcut(before=before, channels=channels_in, after=added - before, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels_in, H, W) -> (N, channels, H / stride, W / stride)."""
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class SmallResNet(nn.Module):
    """`depth` blocks at each of the three resolutions."""

    def __init__(self, channels_in: int, outputs: int, depth: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, STAGES[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(STAGES[0])
        self.layer1 = _stage(STAGES[0], STAGES[0], depth, stride=1)
        self.layer2 = _stage(STAGES[0], STAGES[1], depth, stride=2)
        self.layer3 = _stage(STAGES[1], STAGES[2], depth, stride=2)
        self.linear = nn.Linear(STAGES[2], outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels_in, H, W) -> logits (N, outputs)."""
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def _stage(channels_in: int, channels: int, depth: int, stride: int) -> nn.Sequential:
    first = Block(channels_in, channels, stride)
    return nn.Sequential(first, *(Block(channels, channels, 1) for _ in range(depth - 1)))


def _build(input_shape: tuple[int, ...], outputs: int, layers: int) -> nn.Module:
    return initialize(SmallResNet(require_image(f"resnet{layers}", input_shape)[0], outputs, depth=(layers - 2) // 6))


@NETWORKS.register("resnet8")
def resnet8(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """One block a stage; input (channels, height, width)."""
    return _build(input_shape, outputs, 8)


@NETWORKS.register("resnet20")
def resnet20(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Three blocks a stage; 40.55 M MACs at 3x32x32."""
    return _build(input_shape, outputs, 20)


@NETWORKS.register("resnet32")
def resnet32(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Five blocks a stage."""
    return _build(input_shape, outputs, 32)


@NETWORKS.register("resnet44")
def resnet44(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Seven blocks a stage."""
    return _build(input_shape, outputs, 44)


@NETWORKS.register("resnet56")
def resnet56(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Nine blocks a stage; 125.5 M MACs at 3x32x32."""
    return _build(input_shape, outputs, 56)
