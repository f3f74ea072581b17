"""Attention with fewer heads: with all of them it is torch's; with some it is torch's without the others."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from pocketpipe.compression.thin_attention import ThinMultiheadAttention

WIDTH, HEADS, STEPS, BATCH = 12, 3, 5, 2


def _pair(**options: Any) -> tuple[nn.MultiheadAttention, nn.MultiheadAttention]:
    torch.manual_seed(0)
    plain = nn.MultiheadAttention(WIDTH, HEADS, **options).eval()
    for bias in (plain.in_proj_bias, plain.out_proj.bias):
        if bias is not None:
            nn.init.normal_(bias)
    thin = copy.deepcopy(plain)
    ThinMultiheadAttention.of(thin)
    return plain, thin


PADDING = torch.tensor([[False] * 4 + [True], [False] * 5])
CAUSAL = torch.ones(STEPS, STEPS).triu(1).bool()
SLOPE = torch.arange(float(STEPS * STEPS)).view(STEPS, STEPS) / 9
CALLS: list[dict[str, Any]] = [
    {},
    {"need_weights": False},
    {"average_attn_weights": False},
    {"attn_mask": CAUSAL},
    {"attn_mask": SLOPE, "need_weights": False},
    {"key_padding_mask": PADDING},
    {"key_padding_mask": PADDING, "attn_mask": CAUSAL},
    {"attn_mask": torch.stack([SLOPE * (i - 2) for i in range(BATCH * HEADS)])},
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("options", [{}, {"batch_first": True}, {"bias": False, "batch_first": True}])
def test_with_all_heads_it_is_torchs(options: dict[str, Any], call: dict[str, Any]) -> None:
    plain, thin = _pair(**options)
    assert type(thin) is ThinMultiheadAttention
    query, key, value = torch.randn(3, BATCH, STEPS, WIDTH)
    if not options.get("batch_first"):
        query, key, value = (each.transpose(0, 1) for each in (query, key, value))
    expected, weights = plain(query, key, value, **call)
    found, found_weights = thin(query, key, value, **call)
    torch.testing.assert_close(found, expected)
    assert (found_weights is None) == (weights is None)
    if weights is not None:
        torch.testing.assert_close(found_weights, weights)


def test_without_a_batch() -> None:
    plain, thin = _pair()
    x = torch.randn(STEPS, WIDTH)
    torch.testing.assert_close(thin(x, x, x), plain(x, x, x))


def test_names_of_weights_stay() -> None:
    plain, thin = _pair()
    thin.load_state_dict(plain.state_dict())
    assert list(thin.state_dict()) == list(plain.state_dict())
