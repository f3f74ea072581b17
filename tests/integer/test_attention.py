"""Attention as networks write it out, quantized: ONNX Runtime's numbers, and the reference's integers from C."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from exporting.test_qdq import _inputs, _quantized
from integer.natively import natively
from integer.test_lowering import agrees
from pocketpipe.exporting.onnx import export_onnx
from pocketpipe.integer import reference

Split = Callable[[Tensor], Sequence[Tensor] | Tensor]


class Packed(nn.Module):
    """One layer makes queries, keys and values of all heads, which `split` takes apart."""

    def __init__(self, split: Split, heads: int = 2, width: int = 12) -> None:
        super().__init__()
        self.split, self.heads, self.width = split, heads, width
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        n, steps, width = x.shape
        q, k, v = self.split(self.qkv(x).reshape(n, steps, 3, self.heads, width // self.heads))
        weights = (q * (width // self.heads) ** -0.5 @ k.transpose(-2, -1)).softmax(-1)
        mixed: Tensor = self.out((weights @ v).transpose(1, 2).reshape(n, steps, width))
        return mixed


WAYS: dict[str, Split] = {
    "index": lambda qkv: (turned := qkv.permute(2, 0, 3, 1, 4), [turned[i] for i in range(3)])[1],
    "unbind": lambda qkv: qkv.permute(2, 0, 3, 1, 4).unbind(0),
    "unbind by name": lambda qkv: torch.unbind(qkv.permute(2, 0, 3, 1, 4), dim=-5),
    "iteration": lambda qkv: qkv.permute(2, 0, 3, 1, 4),
    "unbind where it is": lambda qkv: [part.transpose(1, 2) for part in qkv.unbind(2)],
}


@pytest.mark.parametrize("way", WAYS)
def test_packed_attention_goes_all_the_way(way: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape = (7, 12)
    quantized = _quantized(Packed(WAYS[way]).eval(), shape)
    graph = agrees(export_onnx(quantized, shape), _inputs(shape), share=0.02, steps=2)
    entering = graph.quantized(_inputs(shape))
    (run,) = natively([graph], tmp_path)
    assert np.array_equal(run(entering), reference.run(graph, entering))
