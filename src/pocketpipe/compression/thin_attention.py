"""torch's multi-head attention with fewer heads than its embedding has room for, or narrower ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from pocketpipe.compression.weights import change_class


class ThinMultiheadAttention(nn.MultiheadAttention):
    """`nn.MultiheadAttention` whose heads together are narrower than the embedding that it reads and makes.

    torch's own forward insists that heads * width = embedding. Weights and their names are the same; there are
    `num_heads` of them, as wide as they were before channels went: `head_dim`, by which scores are scaled.
    """

    @classmethod
    def of(cls, attention: nn.MultiheadAttention) -> None:
        """Turn `attention`, whose weights have been cut, into one of this class, in place."""
        change_class(attention, lambda own: cls)
        attention._qkv_same_embed_dim = False  # tells torch's fused encoder, which has the same demand, to keep out

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As torch's: (attended, weights or None); `(batch, steps, embedding)`, or without batch, or steps first."""
        of_itself = query is key and key is value
        batched = query.dim() == 3
        if not batched:
            query, key, value = (each.unsqueeze(0) for each in (query, key, value))
        elif not self.batch_first:
            query, key, value = (each.transpose(0, 1) for each in (query, key, value))
        if of_itself:  # one product with the whole weight, which tracing then knows as a layer
            made = functional.linear(query, self.in_proj_weight, self.in_proj_bias).chunk(3, -1)
        else:
            weights = self.in_proj_weight.chunk(3)
            biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
            made = tuple(map(functional.linear, (query, key, value), weights, biases))
        q, k, v = map(self._by_head, made)
        scores = q @ k.transpose(-2, -1) * self.head_dim**-0.5
        mask = self._mask(scores, key_padding_mask, attn_mask)
        attention = (scores if mask is None else scores + mask).softmax(-1)
        attention = functional.dropout(attention, self.dropout, self.training)
        attended = self.out_proj((attention @ v).transpose(1, 2).flatten(2))
        if not batched:
            attended, attention = attended.squeeze(0), attention.squeeze(0)
        elif not self.batch_first:
            attended = attended.transpose(0, 1)
        if not need_weights:
            return attended, None
        return attended, attention.mean(-3) if average_attn_weights else attention

    def _by_head(self, x: Tensor) -> Tensor:
        """(N, steps, heads * width) -> (N, heads, steps, width)."""
        return x.view(*x.shape[:-1], self.num_heads, -1).transpose(1, 2)

    def _mask(self, scores: Tensor, padding: Tensor | None, mask: Tensor | None) -> Tensor | None:
        """What is added to scores (N, heads, steps, steps): -inf where a boolean mask hides."""
        merged = None
        if mask is not None:
            shape = (-1, self.num_heads, *mask.shape[-2:]) if mask.dim() == 3 else mask.shape
            merged = _added(mask, scores).reshape(shape)
        if padding is not None:
            hidden = _added(padding, scores).view(scores.shape[0], 1, 1, -1)
            merged = hidden if merged is None else merged + hidden
        return merged


def _added(mask: Tensor, scores: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(scores.dtype)
    return torch.zeros_like(mask, dtype=scores.dtype).masked_fill(mask, float("-inf"))
