"""Small networks in the form of published ones for images, each with its own way to couple channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def _conv(inputs: int, outputs: int, size: int = 1, **options: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False, **options)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class DenseNet(nn.Module):
    """Huang et al. 2017: BatchNorm and ReLU before each convolution, bottlenecks, a transition between two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.first, width = self._block(8)
        self.transition = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 10, 1, bias=False))
        self.second, width = self._block(10)
        self.norm, self.head = nn.BatchNorm2d(width), nn.Linear(width, 5)

    @staticmethod
    def _block(width: int, growth: int = 4, layers: int = 2) -> tuple[nn.ModuleList, int]:
        made = nn.ModuleList()
        for _ in range(layers):
            bottleneck = nn.Conv2d(width, 2 * growth, 1, bias=False)
            conv = nn.Conv2d(2 * growth, growth, 3, padding=1, bias=False)
            norms = nn.BatchNorm2d(width), nn.BatchNorm2d(2 * growth)
            made.append(nn.Sequential(norms[0], nn.ReLU(), bottleneck, norms[1], nn.ReLU(), conv))
            width += growth
        return made, width

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.first:
            x = torch.cat([x, layer(x)], 1)
        x = functional.avg_pool2d(self.transition(x), 2)
        for layer in self.second:
            x = torch.cat([x, layer(x)], 1)
        return self.head(functional.relu(self.norm(x)).mean((2, 3)))


class Inception(nn.Module):
    """Szegedy et al. 2016: four branches side by side, one of them with flat kernels, one after pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv(3, 8, 3)
        self.one = _conv(8, 6)
        self.three = nn.Sequential(_conv(8, 5), _conv(5, 7, 3))
        self.flat = nn.Sequential(
            _conv(8, 6), nn.Conv2d(6, 6, (1, 3), padding=(0, 1)), nn.Conv2d(6, 9, (3, 1), padding=(1, 0)), nn.ReLU()
        )
        self.pooled = nn.Sequential(nn.AvgPool2d(3, 1, 1), _conv(8, 4))
        self.after = _conv(26, 12)
        self.head = nn.Linear(12 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.after(torch.cat([self.one(x), self.three(x), self.flat(x), self.pooled(x)], 1))
        return self.head(functional.max_pool2d(x, 2).flatten(1))


class SqueezeExcite(nn.Module):
    """Hu et al. 2018, in an inverted residual: a gate of two 1x1 convolutions on a depthwise one, and a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv(3, 6, 3)
        self.expand, self.depthwise = _conv(6, 18), _conv(18, 18, 3, groups=18)
        self.reduce, self.restore = nn.Conv2d(18, 4, 1), nn.Conv2d(4, 18, 1)
        self.project, self.norm = nn.Conv2d(18, 6, 1, bias=False), nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.depthwise(self.expand(x))
        gate = self.restore(functional.silu(self.reduce(functional.adaptive_avg_pool2d(y, 1))))
        x = x + self.norm(self.project(y * functional.hardsigmoid(gate)))
        return self.head(x.mean((2, 3)))


class ShuffleNetV1(nn.Module):
    """Zhang et al. 2018: 1x1 convolutions in groups, a shuffle and a depthwise one in between, added to the input."""

    def __init__(self) -> None:
        super().__init__()
        self.groups = 2
        self.stem = _conv(3, 24, 3)
        self.squeeze = _conv(24, 16, groups=2)
        self.depthwise, self.norm = nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False), nn.BatchNorm2d(16)
        self.restore, self.last = nn.Conv2d(16, 24, 1, groups=2, bias=False), nn.BatchNorm2d(24)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.squeeze(x)
        n, c, h, w = y.shape
        y = y.view(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, c, h, w)
        y = self.last(self.restore(self.norm(self.depthwise(y))))
        return self.head(functional.relu(x + y).mean((2, 3)))


class ShuffleNetV2(nn.Module):
    """Ma et al. 2018: one half passes, the other is worked on, torch's own shuffle; then a unit with two branches."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv(3, 12, 3)
        self.enter = _conv(6, 6)
        self.depthwise, self.norm = nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False), nn.BatchNorm2d(6)
        self.leave = _conv(6, 6)
        self.left = nn.Sequential(nn.Conv2d(12, 12, 3, 2, 1, groups=12, bias=False), nn.BatchNorm2d(12), _conv(12, 10))
        self.right = nn.Sequential(_conv(12, 8), nn.Conv2d(8, 8, 3, 2, 1, groups=8), _conv(8, 10))
        self.shuffle = nn.ChannelShuffle(2)
        self.last, self.head = _conv(20, 14), nn.Linear(14, 5)

    def forward(self, x: Tensor) -> Tensor:
        passed, worked = self.stem(x).chunk(2, dim=1)
        worked = self.leave(self.norm(self.depthwise(self.enter(worked))))
        x = self.shuffle(torch.cat([passed, worked], 1))
        x = self.shuffle(torch.cat([self.left(x), self.right(x)], 1))
        return self.head(self.last(x).mean((2, 3)))


class Frames(nn.Module):
    """A film of two frames: each is an image of the batch to the convolutions; a part of it runs under autocast."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inside = _conv(3, 6, 3), _conv(6, 7, 3)
        self.standardized = nn.Conv2d(7, 4, 1)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        frames = self.stem(x.unflatten(2, (2, -1)).movedim(2, 1).flatten(0, 1))
        with torch.autocast("cpu", enabled=False):
            pooled = functional.max_pool2d(self.inside(frames.float()), 2)
        weight = self.standardized.weight - self.standardized.weight.mean((1, 2, 3), keepdim=True)
        seen = functional.conv2d(pooled, weight, self.standardized.bias).mean((2, 3))
        return self.head(seen.unflatten(0, (-1, 2)).mean(1))


class ResNeXt(nn.Module):
    """Xie et al. 2017, in many groups of few channels, with GroupNorm (Wu and He 2018) on the shortcut's side."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 12, 3, padding=1), nn.GroupNorm(4, 12)
        self.enter = _conv(12, 16)
        self.grouped = _conv(16, 16, 3, groups=8)
        self.leave = nn.Conv2d(16, 12, 1)
        self.up = nn.ConvTranspose2d(12, 8, 2, stride=2, groups=2)
        self.each = nn.ConvTranspose2d(8, 8, 3, groups=8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.stem(x)))
        x = functional.relu(x + self.leave(self.grouped(self.enter(x))))
        return self.head(functional.relu(self.each(functional.relu(self.up(x)))).mean((2, 3)))


class ConvNeXt(nn.Module):
    """Liu et al. 2022: LayerNorm over channels that lie last, an inner layer four times as wide, a learnt scale."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 2, stride=2)
        self.depthwise, self.norm = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.LayerNorm(8)
        self.inner, self.outer = nn.Linear(8, 32), nn.Linear(32, 8)
        self.scale = nn.Parameter(torch.rand(8))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.scale * self.outer(functional.gelu(self.inner(y)))
        return self.head((x + y.permute(0, 3, 1, 2)).mean((2, 3)))


class Standardized(nn.Module):
    """A convolution whose weight is computed (Qiao et al. 2019), between others; a part of a weight in a product."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.computed, self.third = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 8, 3, stride=2), nn.Conv2d(8, 7, 1)
        self.both = nn.Linear(7, 12)
        self.hidden, self.head = nn.Linear(6, 9), nn.Linear(9, 5)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.computed.weight
        weight = (weight - weight.mean((1, 2, 3), keepdim=True)) / weight.std((1, 2, 3), keepdim=True)
        x = functional.conv2d(functional.relu(self.first(x)), weight, self.computed.bias, stride=2)
        x = functional.relu(self.third(functional.relu(x))).mean((2, 3))
        gates, values = self.both.weight.split([6, 6])
        x = functional.linear(x, gates).sigmoid() * functional.linear(x, values, self.both.bias[6:])
        return self.head(self.hidden(x).relu())


IMAGE = (3, 8, 8)
IMAGES: dict[str, tuple[type[nn.Module], tuple[int, ...]]] = {
    "convnext": (ConvNeXt, IMAGE),
    "densenet": (DenseNet, IMAGE),
    "frames": (Frames, (3, 16, 8)),
    "inception": (Inception, IMAGE),
    "resnext": (ResNeXt, IMAGE),
    "shufflenet_v1": (ShuffleNetV1, IMAGE),
    "shufflenet_v2": (ShuffleNetV2, IMAGE),
    "standardized": (Standardized, IMAGE),
    "squeeze_excite": (SqueezeExcite, IMAGE),
}
