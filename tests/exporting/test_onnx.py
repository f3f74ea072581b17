"""The exported file: folded, clean, small, equal to PyTorch, and the same bytes in every process."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from pocketpipe.errors import UserError
from pocketpipe.exporting.executing import run_onnx, session
from pocketpipe.exporting.onnx import INPUT_NAME, check_export, export_onnx


class Residual(nn.Module):
    """Two convolutions with BatchNorm around a shortcut, a pooled classifier behind."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(torch.relu(x + self.body(x)).mean((2, 3)))


class Recurrent(nn.Module):
    """A plain recurrent cell, unrolled over the rows."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 12)
        self.outer = nn.Linear(12, 12)
        self.head = nn.Linear(12, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = torch.zeros(x.shape[0], 12)
        for row in range(x.shape[1]):
            state = torch.tanh(self.inner(x[:, row]) + self.outer(state))
        return self.head(state)


class LinearNorm(nn.Sequential):
    """BatchNorm after a linear layer, dropout behind."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(), nn.Linear(5, 3))


def trained(network: nn.Module, seed: int = 0) -> nn.Module:
    """`network` in eval mode with every parameter and BatchNorm statistic away from its default."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.1)
    return network.eval()


def examples(shape: tuple[int, ...], count: int = 5) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, *shape)).astype(np.float32)


@cache
def exported(build: type[nn.Module], shape: tuple[int, ...]) -> bytes:
    return export_onnx(trained(build()), shape)


CASES = [(Residual, (1, 8, 8)), (Recurrent, (8, 8)), (LinearNorm, (6,))]


@pytest.mark.parametrize(("build", "shape"), CASES)
def test_the_file_computes_what_pytorch_computes(build: type[nn.Module], shape: tuple[int, ...]) -> None:
    network = trained(build())
    data = exported(build, shape)
    inputs = examples(shape)
    outputs = run_onnx(data, inputs)
    with torch.no_grad():
        np.testing.assert_allclose(outputs, network(torch.from_numpy(inputs)).numpy(), rtol=1e-5, atol=1e-5)
    check = check_export(data, network, inputs)
    assert check.difference <= 1e-4 * np.abs(outputs).max()
    assert check.equal_share == 1.0


@pytest.mark.parametrize(("build", "shape"), CASES)
def test_batchnorm_is_folded_and_nothing_but_the_network_is_in_the_file(
    build: type[nn.Module], shape: tuple[int, ...]
) -> None:
    data = exported(build, shape)
    model = onnx.load_from_string(data)
    onnx.checker.check_model(model, full_check=True)
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    assert not model.functions
    assert [opset.domain for opset in model.opset_import] == [""]
    assert model.opset_import[0].version >= 18
    assert [value.name for value in model.graph.input] == ["input"]
    assert [value.name for value in model.graph.output] == ["output"]
    dimensions = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    assert dimensions == [1, *shape]
    assert b"forward" not in data  # a stack trace or a class hierarchy would name it
    assert str(Path(__file__).parent).encode() not in data


def test_the_size_is_four_bytes_a_parameter_and_an_overhead_that_widths_do_not_change() -> None:
    """What planning relies on: overhead measured once predicts the file of any slimmer network within 1 kB."""
    width = 8
    wide, narrow = export_onnx(trained(Residual(32)), (1, 8, 8)), exported(Residual, (1, 8, 8))
    overhead = len(wide) - 4 * _parameters_after_folding(32)
    assert abs(len(narrow) - (overhead + 4 * _parameters_after_folding(width))) < 1000
    assert overhead < 5000


def _parameters_after_folding(width: int) -> int:
    stem, body, head = (9 * width + width), (9 * width * width + width), (10 * width + 10)
    return stem + body + head


class SharedInDepth(nn.Module):
    """One layer that tokens go through three times."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(40, 40)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(3):
            x = torch.relu(self.mix(x))
        return x.mean(1)


def test_a_weight_that_is_used_several_times_lies_in_the_file_once() -> None:
    network = trained(SharedInDepth())
    data, x = export_onnx(network, (5, 40)), np.random.default_rng(0).standard_normal((4, 5, 40)).astype(np.float32)
    assert len(data) < 1.5 * 4 * 40 * 40
    assert check_export(data, network, x).equal_share == 1.0


def test_the_network_itself_is_left_as_it_was() -> None:
    network = trained(Residual())
    network.train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    export_onnx(network, (1, 8, 8))
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_another_process_writes_the_same_bytes(tmp_path: Path) -> None:
    """In another folder, with another hash seed and thread count, and without a word."""
    here = Path(__file__)
    script = (
        f"import sys; sys.path.insert(0, {str(here.parent)!r})\n"
        f"import {here.stem} as t\n"
        "sys.stdout.buffer.write(t.export_onnx(t.trained(t.Residual()), (1, 8, 8)))\n"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "4711", "OMP_NUM_THREADS": "2"}
    other = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, check=True
    )
    assert not other.stderr.strip(), "the exporter is to be silent"
    assert other.stdout == exported(Residual, (1, 8, 8))


def test_threads_change_nothing_but_the_time() -> None:
    data = exported(Residual, (1, 8, 8))
    inputs = examples((1, 8, 8), count=7)
    one, many = run_onnx(data, inputs, threads=1), run_onnx(data, inputs, threads=16)
    np.testing.assert_array_equal(one, many)
    runner = session(data)
    np.testing.assert_array_equal(one[3:4], runner.run(None, {INPUT_NAME: inputs[3:4]})[0])


def test_a_file_that_differs_is_refused() -> None:
    data = exported(Residual, (1, 8, 8))
    with pytest.raises(UserError, match="differs from PyTorch by"):
        check_export(data, trained(Residual(), seed=1), examples((1, 8, 8)))


class _DependsOnData(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * float(x.sum())


def test_a_value_that_tracing_froze_is_found_by_the_check() -> None:
    network = _DependsOnData().eval()
    with pytest.raises(UserError, match="depend on the data"):
        check_export(export_onnx(network, (3,)), network, examples((3,)))


class _Pair(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x + 1, x * 2


class _NoOnnxOperator(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.eigvals(x).real


@pytest.mark.parametrize(
    ("network", "shape", "says"),
    [(_Pair(), (3,), "returns 2 outputs"), (_NoOnnxOperator(), (3, 3), "cannot be exported to ONNX.*linalg_eig")],
)
def test_what_cannot_be_exported_is_one_clear_line(network: nn.Module, shape: tuple[int, ...], says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        export_onnx(network, shape)
    assert "\n" not in str(caught.value)
