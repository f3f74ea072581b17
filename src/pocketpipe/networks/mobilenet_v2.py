"""MobileNet-v2 (Sandler et al. 2018): inverted residuals with linear bottlenecks. Keys as in torchvision."""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from pocketpipe.network import NETWORKS
from pocketpipe.networks.images import fitting_strides, require_image
from pocketpipe.networks.initialization import initialize

STEM, HEAD = 32, 1280
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, output channels, blocks, stride of the first block."""
DIVISOR = 8


class InvertedResidual(nn.Module):
    """1x1 up, 3x3 depthwise, 1x1 down without activation; added to its input where the shapes agree."""

    def __init__(self, channels_in: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = channels_in * expansion
        expand = [] if expansion == 1 else [_convolution(channels_in, hidden, 1, 1)]
        depthwise = _convolution(hidden, hidden, 3, stride, groups=hidden)
        project = nn.Conv2d(hidden, channels, 1, bias=False)
        self.conv = nn.Sequential(*expand, depthwise, project, nn.BatchNorm2d(channels))
        self.adds = stride == 1 and channels_in == channels

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels_in, H, W) -> (N, channels, H / stride, W / stride)."""
        y: Tensor = self.conv(x)
        return x + y if self.adds else y


class MobileNetV2(nn.Module):
    """A 3x3 convolution, 17 inverted residuals, a 1x1 convolution, average pooling, a linear layer."""

    def __init__(self, input_shape: tuple[int, ...], outputs: int, width: float) -> None:
        super().__init__()
        strides = fitting_strides([2, *(stage[3] for stage in STAGES)], input_shape)
        channels = _rounded(STEM * width)
        features: list[nn.Module] = [_convolution(input_shape[0], channels, 3, strides[0])]
        for (expansion, wanted, blocks, _), stride in zip(STAGES, strides[1:], strict=True):
            for block in range(blocks):
                after = _rounded(wanted * width)
                features.append(InvertedResidual(channels, after, stride if block == 0 else 1, expansion))
                channels = after
        head = _rounded(HEAD * max(1.0, width))
        self.features = nn.Sequential(*features, _convolution(channels, head, 1, 1))
        # torchvision's index 0 is a dropout, which has no weights and is of no use to a network that gets smaller.
        self.classifier = nn.Sequential(OrderedDict([("1", nn.Linear(head, outputs))]))

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels_in, H, W) -> logits (N, outputs)."""
        logits: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits


def _rounded(channels: float) -> int:
    """The nearest multiple of 8, not more than a tenth below `channels`, as the paper's code has it."""
    rounded = max(DIVISOR, int(channels + DIVISOR / 2) // DIVISOR * DIVISOR)
    return rounded if rounded >= 0.9 * channels else rounded + DIVISOR


def _convolution(channels_in: int, channels: int, kernel: int, stride: int, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU6(),
    )


@NETWORKS.register("mobilenet_v2")
def mobilenet_v2(
    input_shape: tuple[int, ...], outputs: int, *, width: Annotated[float, Field(gt=0, le=4)] = 1.0
) -> nn.Module:
    """Input (channels, height, width); `width` multiplies every channel count.

    Small images are halved less often (`images.fitting_strides`).
    """
    return initialize(MobileNetV2(require_image("mobilenet_v2", input_shape), outputs, width))
