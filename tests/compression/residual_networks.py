"""Networks with residual additions of many forms: of each, which modules can be taken out, and which cannot."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from _pytest.mark import ParameterSet
from torch import Tensor, nn
from torch.nn import functional

from compression.zoo import ALL


class Post(nn.Module):
    """relu(f(x) + x), the sum in place."""

    def __init__(self, width: int = 6, inner: int = 8) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, inner, 3, padding=1, bias=False), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = nn.Conv2d(inner, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        y += x
        return functional.relu(y, inplace=True)


class Pre(nn.Module):
    """x + f(relu(norm(x))), the way of pre-activation."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(width), nn.Conv2d(width, 8, 3, padding=1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(8), nn.Conv2d(8, width, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(functional.relu(self.norm1(x)))
        return x + self.conv2(functional.relu(self.norm2(y)))


class InPlace(nn.Module):
    """x += f(x)"""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        x += self.conv(x)
        return x


class Clamped(nn.Module):
    """relu6(x + f(x)) with a dropout on the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.drop = nn.Conv2d(6, 6, 1), nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu6(self.drop(x) + self.conv(x))


class Layer(nn.Module):
    """A Transformer's layer with the norms first: attention and a multi-layer perceptron, each with its addition."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.inner, self.outer = nn.Linear(width, 20), nn.Linear(20, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.out(functional.scaled_dot_product_attention(self.query(y), self.key(y), self.value(y)))
        return x + self.outer(functional.gelu(self.inner(self.norm2(x))))


class Halves(nn.Module):
    """A Transformer's layer whose perceptron adds in a module of its own: the innermost one is the block."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.mix, self.mlp = nn.Linear(width, width), Wrapped(nn.Sequential(nn.Linear(width, 5), nn.Linear(5, width)))

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x + self.mix(x).tanh())


class Wrapped(nn.Module):
    """x + f(x) around any module; the addition has a module of its own, as networks for quantization have it."""

    def __init__(self, function: nn.Module) -> None:
        super().__init__()
        self.function, self.sum = function, Sum()

    def forward(self, x: Tensor) -> Tensor:
        return self.sum(self.function(x), x)


class Sum(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class Strided(nn.Module):
    """Half the resolution: nothing to put in its place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 6, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.conv(x) + x[:, :, ::2, ::2])


class Projected(nn.Module):
    """Same shape, but the shortcut is a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.shortcut = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.conv(x) + self.shortcut(x))


class Scaled(nn.Module):
    """The stream itself is weighed: without f it is not the input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(self.conv(x), x, alpha=0.5)


class Normalized(nn.Module):
    """A norm after the addition, as in the first Transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.conv(x))


class Embedded(nn.Module):
    """A table of positions is added: that is no block."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, 6, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table


class Gated(nn.Module):
    """x + g * f(x), a gate from the input: squeeze and excitation in the branch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate = nn.Conv2d(6, 6, 3, padding=1), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return x + y * self.gate(y.mean((2, 3))).sigmoid()[:, :, None, None]


class Images(nn.Module):
    """A convolution, blocks, a linear layer."""

    def __init__(self, *blocks: nn.Module, positive: bool = True) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.start = nn.ReLU() if positive else nn.Identity()
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.start(self.norm(self.stem(x)))).mean((2, 3)))


class Sequences(nn.Module):
    """Embedding, layers, a norm, a linear layer; the layers are called in a loop, with a mask that they may ignore."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.embed, self.place = nn.Linear(4, 8), nn.Parameter(torch.randn(1, 6, 8))
        self.layers = nn.ModuleList(layers)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.place
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x).mean(1))


class Twice(Images):
    """The second block runs two times."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.start(self.norm(self.stem(x)))
        x = self.blocks[1](self.blocks[1](self.blocks[0](x)))
        return self.head(x.mean((2, 3)))


class Looking(Images):
    """The network's code looks into its first block."""

    def forward(self, x: Tensor) -> Tensor:
        if self.blocks[0].conv1.bias is not None:
            x = x * 2
        return super().forward(x)


class Numbered(nn.Module):
    """Each block is told a number by the network: they cannot take each other's place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.blocks = nn.ModuleList(Told() for _ in range(3))
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.stem(x))
        for number, block in enumerate(self.blocks):
            x = block(x, number)
        return self.head(x.mean((2, 3)))


class Told(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 6, 1)

    def forward(self, x: Tensor, number: int) -> Tensor:
        return x + self.conv(x) * (number + 1)


class Skipping(Images):
    """What leaves the second of four blocks is used at the end, too."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.start(self.norm(self.stem(x)))
        middle = self.blocks[1](self.blocks[0](x))
        return self.head((self.blocks[3](self.blocks[2](middle)) * middle).mean((2, 3)))


def _sharing() -> nn.Module:
    first, second, third = Post(), Post(), Post()
    second.conv1.weight = first.conv1.weight
    return Images(first, second, third)


def _encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, norm_first=True)
    return Sequences(nn.TransformerEncoder(layer, 3, enable_nested_tensor=False))


def slow_but(quick: set[str]) -> list[ParameterSet]:
    """Parameters (name, shape) of a test for all networks of the zoo: those but `quick` only in the slow suite."""
    assert quick <= {name for name, _ in ALL}
    return [pytest.param(name, shape, marks=[] if name in quick else [pytest.mark.slow]) for name, shape in ALL]


IMAGE, SEQUENCE = (3, 8, 8), (6, 4)
RESIDUAL: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[tuple[str, ...], ...]]] = {
    "post-activation": (lambda: Images(Post(), Post(), Post()), IMAGE, (("blocks.0", "blocks.1", "blocks.2"),)),
    "of unlike widths": (
        lambda: Images(Post(), Post(inner=9), Post(inner=9)),
        IMAGE,
        (("blocks.0",), ("blocks.1", "blocks.2")),
    ),
    "post-activation on what may be negative": (
        lambda: Images(Post(), Post(), positive=False),
        IMAGE,
        (("blocks.1",),),
    ),
    "pre-activation": (lambda: Images(Pre(), Pre(), positive=False), IMAGE, (("blocks.0", "blocks.1"),)),
    "clamped from the second on": (lambda: Images(Clamped(), Clamped()), IMAGE, (("blocks.1",),)),
    "in place": (lambda: Images(InPlace(), InPlace()), IMAGE, (("blocks.0", "blocks.1"),)),
    "gated": (lambda: Images(Gated(), Gated()), IMAGE, (("blocks.0", "blocks.1"),)),
    "layers of a Transformer": (
        lambda: Sequences(Layer(), Layer(), Layer()),
        SEQUENCE,
        (("layers.0", "layers.1", "layers.2"),),
    ),
    # Its code looks into its first layer.
    "torch's own encoder": (_encoder, SEQUENCE, (("layers.0.layers.1", "layers.0.layers.2"),)),
    "the innermost": (lambda: Sequences(Halves(), Halves()), SEQUENCE, (("layers.0.mlp",), ("layers.1.mlp",))),
    "none": (
        lambda: Images(Strided(), Projected(), Scaled(), Normalized(), positive=True),
        IMAGE,
        (),
    ),
    "a table of positions": (lambda: Images(Embedded(), Pre()), IMAGE, (("blocks.1",),)),
    "one that runs twice": (lambda: Twice(Post(), Post()), IMAGE, (("blocks.0",),)),
    "shared weights": (_sharing, IMAGE, (("blocks.2",),)),
    "one that the code looks into": (lambda: Looking(Post(), Post()), IMAGE, (("blocks.1",),)),
    "told their number": (Numbered, IMAGE, (("blocks.0",), ("blocks.1",), ("blocks.2",))),
    "a second way out of a block": (
        lambda: Skipping(Post(), Post(), Post(), Post()),
        IMAGE,
        (("blocks.0", "blocks.1"), ("blocks.2", "blocks.3")),
    ),
}
"""Factory, input shape, and the runs of blocks that are to be found."""
