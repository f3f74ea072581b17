"""The ResNet-8 of MLPerf Tiny's image classification benchmark (Banbury et al. 2021): 12.5 M MACs, 78,666 values.

As published: convolutions with bias, 1x1 convolutions as shortcuts without BatchNorm. Padding is symmetric
(Keras pads a stride-2 convolution after the image only), so Keras' weights fit but would be applied one pixel off.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from pocketpipe.network import NETWORKS
from pocketpipe.networks.images import require_image
from pocketpipe.networks.initialization import initialize


class Stack(nn.Module):
    """Two 3x3 convolutions; the shortcut is a 1x1 convolution where the resolution changes."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Identity() if stride == 1 else nn.Conv2d(channels_in, channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels_in, H, W) -> (N, channels, H / stride, W / stride)."""
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class TinyResNet8(nn.Module):
    """A convolution, three stacks, average pooling, a linear layer."""

    def __init__(self, channels_in: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, 16, 3, padding=1)
        self.bn = nn.BatchNorm2d(16)
        self.stacks = nn.Sequential(Stack(16, 16, 1), Stack(16, 32, 2), Stack(32, 64, 2))
        self.linear = nn.Linear(64, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels_in, H, W) -> logits (N, outputs)."""
        x = self.stacks(functional.relu(self.bn(self.conv(x))))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


@NETWORKS.register("resnet8_mlperf_tiny")
def resnet8_mlperf_tiny(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Input (channels, height, width); published for 3x32x32 and 10 classes."""
    return initialize(TinyResNet8(require_image("resnet8_mlperf_tiny", input_shape)[0], outputs))
