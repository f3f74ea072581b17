"""Vision Transformer (Dosovitskiy et al. 2021), small: patches, learned places, pre-norm blocks, a mean of tokens.

Attention is written out in products, so that integer targets compute it; heads and inner layers can be thinned.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from pocketpipe.errors import UserError
from pocketpipe.network import NETWORKS
from pocketpipe.networks.images import require_image

EXPANSION = 2
"""Width of the inner layer of a block, relative to that of a token; the paper has 4."""
SMALL_SIDE, SMALL_PATCH, PATCH = 32, 2, 4
"""Images of fewer pixels a side than 32 are cut into patches of 2 x 2, others of 4 x 4."""
SPREAD_OF_PLACES = 0.02

Size = Annotated[int, Field(gt=0)]


class Attention(nn.Module):
    """Multi-head self-attention; query, key and value by a layer each."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, width // heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """(N, tokens, width) -> the same shape."""
        split = (*x.shape[:-1], self.num_heads, self.head_dim)
        query, key, value = (layer(x).view(split).transpose(1, 2) for layer in (self.query, self.key, self.value))
        weights = (query @ key.transpose(-2, -1) / self.head_dim**0.5).softmax(-1)
        attended: Tensor = self.out((weights @ value).transpose(1, 2).reshape(*x.shape[:-1], -1))
        return attended


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, EXPANSION * width), nn.GELU(), nn.Linear(EXPANSION * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(N, tokens, width) -> the same shape."""
        x = x + self.attention(self.norm1(x))
        result: Tensor = x + self.mlp(self.norm2(x))
        return result


class ViT(nn.Module):
    """Patches, places, blocks, a norm, and a linear layer on the mean of all tokens."""

    def __init__(
        self, input_shape: tuple[int, int, int], outputs: int, *, width: int, depth: int, heads: int, patch: int
    ) -> None:
        super().__init__()
        channels, height, columns = input_shape
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.places = nn.Parameter(SPREAD_OF_PLACES * torch.randn(1, (height // patch) * (columns // patch), width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> logits (N, outputs)."""
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.places
        logits: Tensor = self.head(self.norm(self.blocks(tokens)).mean(1))
        return logits


@NETWORKS.register("vit")
def vit(
    input_shape: tuple[int, ...],
    outputs: int,
    *,
    width: Size = 64,
    depth: Size = 4,
    heads: Size = 4,
    patch: Size | None = None,
) -> nn.Module:
    """Input (channels, height, width). `patch`: pixels a side; None = 2 for images of less than 32 a side, else 4.

    Raises UserError where heads do not divide the width, or patches the image.
    """
    image = require_image("vit", input_shape)
    side = patch or (SMALL_PATCH if min(image[1:]) < SMALL_SIDE else PATCH)
    if width % heads:
        raise UserError(f"network 'vit': {heads} heads do not divide its width of {width}")
    if image[1] % side or image[2] % side:
        raise UserError(f"network 'vit': patches of {side} pixels do not divide images of {image[1]} x {image[2]}")
    return ViT(image, outputs, width=width, depth=depth, heads=heads, patch=side)
