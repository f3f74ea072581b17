"""Networks that are not in the zoo, each with something that couples channels in its own way; `ODD` has all of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from compression.odd_images import IMAGES
from compression.odd_sequences import SEQUENCES


class Dense(nn.Module):
    """DenseNet's way: every layer reads all before it, BatchNorm comes before the convolution."""

    def __init__(self, growth: int = 6, layers: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        widths = [8 + growth * i for i in range(layers)]
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)
        self.convs = nn.ModuleList(nn.Conv2d(width, growth, 3, padding=1, bias=False) for width in widths)
        self.head = nn.Linear(8 + growth * layers, 5)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for norm, conv in zip(self.norms, self.convs, strict=True):
            features.append(conv(functional.relu(norm(torch.cat(features, 1)))))
        return self.head(functional.adaptive_avg_pool2d(torch.cat(features, 1), 1).flatten(1))


class Shuffle(nn.Module):
    """ShuffleNet-v2's way: half of the channels pass, then both halves are shuffled together."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.inner = nn.Conv2d(4, 12, 1)
        self.outer = nn.Conv2d(12, 4, 1)
        self.last = nn.Conv2d(8, 10, 1)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        passed, worked = self.stem(x).chunk(2, dim=1)
        y = torch.cat([passed, self.outer(functional.relu(self.inner(worked)))], 1)
        n, c, h, w = y.shape
        y = y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.head(self.last(functional.relu(y)).mean((2, 3)))


class Squeeze(nn.Module):
    """Squeeze and excitation, with `expand_as`, PReLU for each channel and a scale that is a bare parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3)
        self.slope = nn.PReLU(12)
        self.down, self.up = nn.Linear(12, 4), nn.Linear(4, 12)
        self.scale = nn.Parameter(torch.rand(12, 1, 1))
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.slope(self.conv(x))
        gate = self.up(functional.silu(self.down(y.mean((2, 3))))).sigmoid()
        y = y * gate.unsqueeze(-1).unsqueeze(-1).expand_as(y) * self.scale
        return self.head(y.amax((2, 3)))


class PlainPad(nn.Module):
    """A shortcut of option A in plain code: the number of added channels is written down."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.conv2 = nn.Conv2d(6, 10, 3, padding=1)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.conv1(x))
        y = self.conv2(x) + functional.pad(x, (0, 0, 0, 0, 2, 2))
        return self.head(functional.relu(y).mean((2, 3)))


class Grouped(nn.Module):
    """A convolution in groups, a depthwise one with two outputs a channel, a transposed one, and a skip over them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.inner = nn.Conv2d(8, 6, 1)
        self.twice = nn.Conv2d(6, 12, 3, padding=1, groups=6)
        self.transposed = nn.ConvTranspose2d(12, 7, 2, stride=2)
        self.last = nn.Conv2d(7, 9, 3, stride=2, padding=1)
        self.head = nn.Linear(9, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(functional.relu(self.grouped(self.stem(x))))
        y = self.last(functional.relu(self.transposed(functional.relu(self.twice(y)))))
        return self.head(y.flatten(2).mean(-1))


class Attention(nn.Module):
    """A block of a Transformer: its residual stream is normalized over channels, its inner layer is free."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embed = nn.Linear(4, width)
        self.place = nn.Parameter(torch.randn(1, 6, width))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.inner, self.outer = nn.Linear(width, 20), nn.Linear(20, width)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.place
        y = self.norm1(x)
        weights = (self.query(y) @ self.key(y).transpose(1, 2)).softmax(-1)
        x = x + self.out(weights @ self.value(y))
        x = x + self.outer(functional.gelu(self.inner(self.norm2(x))))
        return self.head(x.mean(1))


class Tied(nn.Module):
    """One weight under two names, and one module called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(7, 10)
        self.again = nn.Linear(10, 10)
        self.same = nn.Linear(10, 10)
        self.same.weight = self.again.weight
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        x = torch.relu(self.again(torch.relu(self.again(x))))
        return self.head(self.same(x))


class OwnZeros(nn.Module):
    """A recurrent network whose first state is made in code, as wide as the weights are."""

    def __init__(self) -> None:
        super().__init__()
        self.input, self.state = nn.Linear(4, 9), nn.Linear(9, 9)
        self.head = nn.Linear(9, 5)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(x.shape[0], self.state.weight.shape[0])
        for step in range(x.shape[1]):
            state = (self.input(x[:, step]) + self.state(state)).tanh()
        return self.head(state)


class WrittenDown(nn.Module):
    """The graph looks like any flattening; only the code shows that the number of features is written down."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.inner = nn.Linear(6 * 36, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(functional.relu(self.conv(x)).view(-1, 216)))


class Positional(nn.Module):
    """Runs at any width, but what a channel is used for depends on how many come before it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 9, 3)
        self.free = nn.Conv2d(9, 6, 1)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.conv(x))
        weights = torch.arange(x.shape[1], dtype=torch.float32).view(1, -1, 1, 1)
        return self.head(self.free(x * weights).mean((2, 3)))


class Spectrum(nn.Module):
    """An operator that no rule knows, between layers that are free."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3)
        self.second = nn.Conv2d(6, 8, 3)
        self.third = nn.Conv2d(8, 7, 1)
        self.head = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(functional.relu(self.first(x)))
        return self.head(self.third(torch.fft.fft2(x).abs()).mean((2, 3)))


class UNet(nn.Module):
    """Down and up again with a skip by concatenation; the output is an image."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 6, 3, padding=1)
        self.deep = nn.Conv2d(6, 10, 3, padding=1)
        self.up = nn.Conv2d(16, 8, 3, padding=1)
        self.out = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        near = functional.relu(self.down(x))
        far = functional.relu(self.deep(functional.max_pool2d(near, 2)))
        far = functional.interpolate(far, scale_factor=2, mode="nearest")
        return self.out(functional.relu(self.up(torch.cat([near, far], 1))))


class Mixer(nn.Module):
    """MLP-Mixer's way: layers along positions and along channels in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 10)
        self.along, self.back = nn.Linear(6, 12), nn.Linear(12, 6)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y = self.back(functional.relu(self.along(x.transpose(1, 2)))).transpose(1, 2)
        return self.head((x + y).mean(1))


class NormalizedMixer(Mixer):
    """The same with a normalization that holds the stream: the layer along positions is free nevertheless."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y = self.back(functional.relu(self.along(self.norm(x).transpose(1, 2)))).transpose(1, 2)
        return self.head((x + y).mean(1))


class Folded(nn.Module):
    """Linear layers with BatchNorm after and before them, in one dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(7, 12, bias=False), nn.BatchNorm1d(12)
        self.conv, self.alone = nn.Conv1d(1, 6, 3), nn.BatchNorm1d(6)
        self.head = nn.Linear(60, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.first(x)))
        return self.head(self.alone(functional.relu(self.conv(x.unsqueeze(1)))).flatten(1))


IMAGE = (3, 8, 8)
ODD: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    **IMAGES,
    **SEQUENCES,
    "attention": (Attention, (6, 4)),
    "dense": (Dense, IMAGE),
    "folded": (Folded, (7,)),
    "grouped": (Grouped, IMAGE),
    "mixer": (Mixer, (6, 4)),
    "mixer_normalized": (NormalizedMixer, (6, 4)),
    "own_zeros": (OwnZeros, (5, 4)),
    "plain_pad": (PlainPad, IMAGE),
    "positional": (Positional, IMAGE),
    "shuffle": (Shuffle, IMAGE),
    "spectrum": (Spectrum, IMAGE),
    "squeeze": (Squeeze, IMAGE),
    "tied": (Tied, (7,)),
    "unet": (UNet, IMAGE),
    "written_down": (WrittenDown, IMAGE),
}
UNCOUNTED = ("spectrum",)
"""PyTorch's counter of MACs knows no Fourier transform."""
