"""ResNet-18 and ResNet-50 (He et al. 2016), shortcut option B, stride in the 3x3 convolution. Keys as in torchvision.

Images below 64x64 get a 3x3 stem without pooling, as is usual for CIFAR.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from pocketpipe.network import NETWORKS
from pocketpipe.networks.images import require_image
from pocketpipe.networks.initialization import initialize

LARGE_SIDE = 64
WIDTHS = (64, 128, 256, 512)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions."""

    expansion = 1

    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _downsample(channels_in, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels_in, H, W) -> (N, width, H / stride, W / stride)."""
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions; four times as wide outside as inside."""

    expansion = 4

    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        channels = width * self.expansion
        self.conv1 = nn.Conv2d(channels_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.downsample = _downsample(channels_in, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels_in, H, W) -> (N, 4 * width, H / stride, W / stride)."""
        y = functional.relu(self.bn1(self.conv1(x)))
        y = functional.relu(self.bn2(self.conv2(y)))
        return functional.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class ResNet(nn.Module):
    """A stem, four stages of blocks, average pooling, a linear layer."""

    def __init__(
        self,
        input_shape: tuple[int, ...],
        outputs: int,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, int, int, int],
    ) -> None:
        super().__init__()
        large = min(input_shape[1:]) >= LARGE_SIDE
        kernel, stride = (7, 2) if large else (3, 1)
        self.conv1 = nn.Conv2d(input_shape[0], WIDTHS[0], kernel, stride, padding=kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.maxpool = nn.MaxPool2d(3, 2, padding=1) if large else nn.Identity()
        channels = [WIDTHS[0], *(width * block.expansion for width in WIDTHS)]
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            _stage(block, channels[i], WIDTHS[i], depths[i], stride=1 if i == 0 else 2) for i in range(4)
        )
        self.fc = nn.Linear(channels[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels_in, H, W) -> logits (N, outputs)."""
        x = self.maxpool(functional.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def _stage(
    block: type[BasicBlock] | type[Bottleneck], channels_in: int, width: int, depth: int, stride: int
) -> nn.Sequential:
    first = block(channels_in, width, stride)
    return nn.Sequential(first, *(block(width * block.expansion, width, 1) for _ in range(depth - 1)))


def _downsample(channels_in: int, channels: int, stride: int) -> nn.Module:
    if stride == 1 and channels_in == channels:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))


@NETWORKS.register("resnet18")
def resnet18(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Input (channels, height, width); 1.81 G MACs at 3x224x224."""
    return initialize(ResNet(require_image("resnet18", input_shape), outputs, BasicBlock, (2, 2, 2, 2)))


@NETWORKS.register("resnet50")
def resnet50(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Input (channels, height, width); 4.09 G MACs at 3x224x224."""
    return initialize(ResNet(require_image("resnet50", input_shape), outputs, Bottleneck, (3, 4, 6, 3)))
