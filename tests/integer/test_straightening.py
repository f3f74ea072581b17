"""Moves that undo each other go; the integers stay those of the graph as it was lowered."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from compression.test_composition import NETWORKS as COMPOSED
from compression.zoo import trained_looking
from integer.qdq import File
from pocketpipe.buffers import peak_bytes
from pocketpipe.compression.quantization import QuantizationStep
from pocketpipe.compression.tracing import profile_of
from pocketpipe.exporting.onnx import export_onnx
from pocketpipe.integer import lowering, reference
from pocketpipe.integer.graph import IntegerGraph, Transpose
from pocketpipe.integer.lowering import lower
from pocketpipe.plan import CompressionPlan
from pocketpipe.targets.c99.sources import sources
from pocketpipe.task import Preprocessing, Split


class Vibration(nn.Module):
    """What sensors are read with: a stem, a separable block, a residual addition; all along a line."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv1d(3, 8, 7, padding=3), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(2))
        self.separable = nn.Sequential(
            nn.Conv1d(8, 8, 5, padding=2, groups=8), nn.BatchNorm1d(8), nn.Hardswish(),
            nn.Conv1d(8, 12, 1), nn.BatchNorm1d(12), nn.ReLU(), nn.AvgPool1d(2),
        )  # fmt: skip
        self.first = nn.Sequential(nn.Conv1d(12, 12, 3, padding=1), nn.BatchNorm1d(12), nn.ReLU())
        self.second = nn.Sequential(nn.Conv1d(12, 12, 3, padding=1), nn.BatchNorm1d(12))
        self.pool, self.head = nn.AdaptiveAvgPool1d(1), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.separable(self.stem(x))
        return self.head(self.pool(functional.relu(x + self.second(self.first(x)))).flatten(1))


class Causal(nn.Module):
    """A temporal network: padded in front by code, gates from two halves, what came before laid beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gated = nn.Conv1d(3, 6, 3), nn.Conv1d(6, 12, 3, dilation=2)
        self.mixed, self.head = nn.Conv1d(12, 8, 1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(functional.pad(x, (2, 0))).relu()
        left, right = self.gated(functional.pad(x, (4, 0))).chunk(2, dim=1)
        return self.head(self.mixed(torch.cat([x, left * right.sigmoid()], 1)).relu().mean(-1))


class ManyReaders(nn.Module):
    """Each turns what it makes of one tensor by itself, if it is not turned for all."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv1d(3, 6, 3), nn.Linear(6 * 30, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.head((x.sigmoid() + x.tanh() * functional.hardswish(x)).flatten(1))


OWN = {"vibration": Vibration, "causal": Causal, "readers": ManyReaders}
"""Of 3 channels along 32 places."""


def quantized(network: nn.Module, shape: tuple[int, ...]) -> bytes:
    task: Any = SimpleNamespace(input_shape=shape, preprocessing=Preprocessing())
    task.augment_both = lambda inputs, targets, generator: (inputs, targets)
    examples = np.random.default_rng(0).standard_normal((16, *shape)).astype(np.float32)
    made, _ = CompressionPlan((QuantizationStep(),)).carry_out(network, task, Split("noise", examples, np.zeros(16)))
    return export_onnx(made.eval(), shape)


def as_lowered(onnx_file: bytes, monkeypatch: pytest.MonkeyPatch) -> IntegerGraph:
    with monkeypatch.context() as undone:
        undone.setattr(lowering, "straightened", lambda graph: graph)
        return lower(onnx_file)


def transposed(graph: IntegerGraph) -> int:
    return Counter(type(operator) for operator in graph.operators)[Transpose]


@pytest.mark.parametrize("name", [*OWN, "vit", "gru", "resnet8"])
def test_the_integers_stay(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    factory, shape = (OWN[name], (3, 32)) if name in OWN else COMPOSED[name]
    onnx_file = quantized(trained_looking(factory()) if name in OWN else factory(), shape)
    before, after = as_lowered(onnx_file, monkeypatch), lower(onnx_file)
    integers = before.quantized(np.random.default_rng(1).standard_normal((4, *shape)).astype(np.float32))
    assert np.array_equal(reference.run(before, integers), reference.run(after, integers))
    assert transposed(after) <= transposed(before)
    assert len({operator.output for operator in after.operators}) == len(after.operators)
    if name == "vibration":
        assert (transposed(before), transposed(after)) == (11, 1), "the input alone is turned"
    if name == "causal":
        assert transposed(before) > transposed(after) == 1


def test_a_network_along_a_line_takes_the_memory_that_is_predicted() -> None:
    """Turned at every layer it would take twice its largest tensor."""
    torch.manual_seed(0)
    network, shape = trained_looking(Vibration()), (3, 256)
    profile = profile_of(network, shape)
    assert sources(lower(quantized(network, shape))).arena == peak_bytes(profile.buffers, profile.widths(), 1)


def test_what_nobody_reads_is_not_computed() -> None:
    """Also where no transposition is saved."""
    file = File((6,))
    x = file.on_grid("input", 0.0503, 4)
    file.on_grid(file.node("Sigmoid", x), 1 / 256, -128)
    graph = lower(file.bytes(file.on_grid(file.node("Tanh", x), 1 / 128)))
    assert len(graph.operators) == 1
    assert set(graph.tensors) == {graph.input, graph.output}
