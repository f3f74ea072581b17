"""Small networks for sequences: attention in the ways in which people write it, and torch's recurrent modules."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from pocketpipe.networks.vit import Attention


class PackedAttention(nn.Module):
    """One layer for all three, taken apart by `reshape` and `unbind`; torch's fused product."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, width // heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, steps, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, steps, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        x = functional.scaled_dot_product_attention(q, k, v)
        return self.out(x.transpose(1, 2).reshape(n, steps, self.heads * self.head_dim))


class ChunkedAttention(nn.Module):
    """One layer for all three, taken apart by `chunk`; products by letters; the number of heads is written down."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        assert heads == 3
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.scale = (width // heads) ** -0.5

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (3, -1)) for part in self.qkv(x).chunk(3, -1))
        weights = (torch.einsum("bihd,bjhd->bhij", q, k) * self.scale).softmax(-1)
        return self.out(torch.einsum("bhij,bjhd->bihd", weights, v).flatten(2))


class SharedKeys(nn.Module):
    """Several heads of queries read the same keys and values (Ainslie et al. 2023)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.shared, self.head_dim = heads, heads // 2, width // heads
        self.query, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.key, self.value = (nn.Linear(width, self.shared * self.head_dim) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        n, steps, _ = x.shape
        q = self.query(x).view(n, steps, self.heads, self.head_dim).transpose(1, 2)
        k, v = (layer(x).view(n, steps, self.shared, self.head_dim).transpose(1, 2) for layer in (self.key, self.value))
        x = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.out(x.transpose(1, 2).reshape(n, steps, -1))


class StuckAttention(nn.Module):
    """Its sizes come from the stream, which LayerNorm holds: no number in the module can be changed."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, steps, width = x.shape
        q, k, v = self.qkv(x).reshape(n, steps, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        x = functional.scaled_dot_product_attention(q, k, v)
        return self.out(x.transpose(1, 2).reshape(n, steps, width))


class TorchAttention(nn.Module):
    """torch's own module, once with steps first."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.inside = nn.MultiheadAttention(width, heads)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1)
        attended: Tensor = self.inside(x, x, x)[0].transpose(0, 1)
        return attended


class ViT(nn.Module):
    """Dosovitskiy et al. 2021: patches, a class token, learnt places; the attention is one of those above."""

    def __init__(self, attention: Callable[[int, int], nn.Module], width: int = 12, heads: int = 3) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.token, self.places = nn.Parameter(torch.randn(1, 1, width)), nn.Parameter(torch.randn(1, 5, width))
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.attention = attention(width, heads)
        self.inner, self.outer = nn.Linear(width, 20), nn.Linear(20, width)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.places
        x = x + self.attention(self.norm1(x))
        x = x + self.outer(functional.gelu(self.inner(self.norm2(x))))
        return self.head(self.norm3(x)[:, 0])


class Encoder(nn.Module):
    """torch's own Transformer encoder, two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 12)
        layer = nn.TransformerEncoderLayer(12, 4, 24, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x)).mean(1))


class Gated(nn.Module):
    """An inner layer whose one half gates the other, by slices and by `glu`, normalized by root mean square."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(4, 10), nn.RMSNorm(10)
        self.inner, self.outer = nn.Linear(10, 16), nn.Linear(8, 10)
        self.wide, self.narrow = nn.Linear(10, 12), nn.Linear(6, 10)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y = self.inner(self.norm(x))
        half = y.shape[-1] // 2
        x = x + self.outer(functional.silu(y[..., :half]) * y[..., half:])
        return self.head((x + self.narrow(functional.glu(self.wide(x)))).mean(1))


class Llama(nn.Module):
    """Touvron et al. 2023: root mean squares, rotated queries and keys, a gated inner layer; heads by their width."""

    def __init__(self, width: int = 16, heads: int = 4, steps: int = 6) -> None:
        super().__init__()
        self.width = width // heads
        self.embed, self.norm1, self.norm2 = nn.Linear(4, width), nn.RMSNorm(width), nn.RMSNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.normalize = nn.RMSNorm(self.width)
        self.gate, self.up, self.down = nn.Linear(width, 24), nn.Linear(width, 24), nn.Linear(24, width)
        angles = torch.outer(torch.arange(float(steps)), torch.tensor([1.0, 0.1]).repeat(2))
        self.register_buffer("cosines", angles.cos())
        self.register_buffer("sines", angles.sin())
        self.head = nn.Linear(width, 5)

    def _rotated(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, -1)
        return x * self.cosines + torch.cat([-second, first], -1) * self.sines

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y, (n, steps, _) = self.norm1(x), x.shape
        q, k, v = (
            each(y).view(n, steps, -1, self.width).transpose(1, 2) for each in (self.query, self.key, self.value)
        )
        y = functional.scaled_dot_product_attention(
            self._rotated(self.normalize(q)), self._rotated(k), v, is_causal=True
        )
        x = x + self.out(y.transpose(1, 2).reshape(n, steps, -1))
        y = self.norm2(x)
        return self.head((x + self.down(functional.silu(self.gate(y)) * self.up(y))).mean(1))


class Swin(nn.Module):
    """Liu et al. 2021: attention inside shifted windows, with a learnt bias for each head and relative position."""

    def __init__(self, width: int = 12, heads: int = 3, window: int = 4) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.patches, self.norm = nn.Conv2d(3, width, 1), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.table = nn.Parameter(torch.randn((2 * window - 1) ** 2, heads))
        self.register_buffer("places", torch.arange(window**4) * 7 % (2 * window - 1) ** 2)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).permute(0, 2, 3, 1)
        n, height, width, channels = x.shape
        size, area = self.window, self.window**2
        windows = (n, height // size, size, width // size, size, channels)
        y = torch.roll(self.norm(x), (-2, -2), (1, 2)).view(windows).transpose(2, 3).reshape(-1, area, channels)
        q, k, v = self.qkv(y).view(y.shape[0], area, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        bias = self.of_positions()[self.places].view(area, area, -1).permute(2, 0, 1)
        y = ((self.alike(q, k) + bias).softmax(-1) @ v).transpose(1, 2).flatten(2)
        tiles = (n, height // size, width // size, size, size, channels)
        y = self.out(y).view(tiles).transpose(2, 3).reshape(n, height, width, channels)
        return self.head((x + torch.roll(y, (2, 2), (1, 2))).mean((1, 2)))

    def of_positions(self) -> Tensor:
        return self.table

    def alike(self, q: Tensor, k: Tensor) -> Tensor:
        return q @ k.transpose(-2, -1) / 2


class SwinV2(Swin):
    """Liu et al. 2022: similarity by cosine, and a bias that layers compute from the coordinates."""

    def __init__(self, width: int = 12, heads: int = 3, window: int = 4) -> None:
        super().__init__(width, heads, window)
        self.register_buffer("coordinates", torch.randn((2 * window - 1) ** 2, 2))
        self.enter, self.leave = nn.Linear(2, 8), nn.Linear(8, heads, bias=False)
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        del self.table

    def of_positions(self) -> Tensor:
        return self.leave(self.enter(self.coordinates).relu())

    def alike(self, q: Tensor, k: Tensor) -> Tensor:
        q, k = functional.normalize(q, dim=-1), functional.normalize(k, dim=-1)
        return q @ k.transpose(-2, -1) * self.temperature


class Recurrent(nn.Module):
    """One of torch's recurrent modules between two linear layers."""

    def __init__(self, module: Callable[..., nn.Module], outputs: int, *, steps_first: bool = False) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 7)
        self.inside = module(7, 6, batch_first=not steps_first)
        self.steps_first = steps_first
        self.head = nn.Linear(outputs, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        if self.steps_first:
            return self.head(self.inside(x.transpose(0, 1))[0][-1])
        return self.head(self.inside(x)[0][:, -1])


class BothWays(nn.Module):
    """One layer reads the mean over steps, the other all of them with the steps first."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.pooled, self.each = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).relu()
        return self.pooled(x.mean(1)) + self.each(x.transpose(0, 1)).tanh().mean(0)


class Cells(nn.Module):
    """An LSTM cell and a GRU cell on its state, unrolled; the first states are torch's own zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru = nn.LSTMCell(4, 6), nn.GRUCell(6, 7)
        self.head = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        lower, upper = None, None
        for step in range(x.shape[1]):
            lower = self.lstm(x[:, step], lower)
            upper = self.gru(lower[0], upper)
        return self.head(upper)


class Speech(nn.Module):
    """A recurrent module between linear layers: all its outputs are read, and its last state on its own."""

    def __init__(self, inside: nn.RNNBase) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 8)
        self.inside = inside
        width = inside.hidden_size
        self.pooled, self.head = nn.Linear((1 + inside.bidirectional) * width, 5), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).relu()
        outputs, state = self.inside(x if self.inside.batch_first else x.transpose(0, 1))
        last = state[0] if isinstance(state, tuple) else state
        pooled = outputs.mean(1 if self.inside.batch_first else 0)
        logits: Tensor = self.pooled(pooled) + self.head(last[-1])
        return logits


IMAGE, STEPS = (3, 8, 8), (6, 4)
SEQUENCES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "both_ways": (BothWays, STEPS),
    "cells": (Cells, STEPS),
    "encoder": (Encoder, STEPS),
    "gated": (Gated, STEPS),
    "llama": (Llama, STEPS),
    "lstm": (partial(Recurrent, partial(nn.LSTM, num_layers=2, bidirectional=True), 12), STEPS),
    "lstm_projected": (partial(Recurrent, partial(nn.LSTM, num_layers=2, proj_size=4), 4), STEPS),
    "rnn": (partial(Recurrent, partial(nn.RNN, num_layers=2, bias=False), 6), STEPS),
    "swin": (Swin, IMAGE),
    "swin_v2": (SwinV2, IMAGE),
    "torch_gru": (partial(Recurrent, nn.GRU, 6, steps_first=True), STEPS),
    "vit_chunked": (partial(ViT, ChunkedAttention), IMAGE),
    "vit_explicit": (partial(ViT, Attention), IMAGE),
    "vit_packed": (partial(ViT, PackedAttention), IMAGE),
    "vit_shared": (partial(ViT, SharedKeys, 16, 4), IMAGE),
    "vit_stuck": (partial(ViT, StuckAttention), IMAGE),
    "vit_torch": (partial(ViT, TorchAttention), IMAGE),
}
