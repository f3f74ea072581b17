"""Constants around a tensor: as ONNX Runtime adds them, or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from integer.natively import natively
from integer.qdq import File
from integer.test_lowering import agrees, some
from pocketpipe.errors import UserError
from pocketpipe.integer import reference
from pocketpipe.integer.graph import Pad
from pocketpipe.integer.lowering import lower

AROUND = np.array([0, 0, 1, 2, 0, 0, 2, 1])
"""Rows and columns of an image, before and after."""


def _padded(file: File, value: float) -> str:
    x = file.on_grid("input", 0.0503, 5)
    return file.node("Pad", x, file.constant(AROUND), file.constant(np.float32(value)))


def _convolved(file: File, x: str) -> str:
    weight = file.weight(np.random.default_rng(0).integers(-127, 128, (4, 3, 3, 3)), np.full(4, 0.0103))
    return file.node("Conv", x, weight)


def test_a_pad_on_the_grid_is_met() -> None:
    for integer in (-128, 0, 41, 127):
        file = File((3, 5, 4))
        y = _convolved(file, _padded(file, np.float32(0.0503) * np.float32(integer - 5)))
        agrees(file.bytes(file.on_grid(y, 0.1507)), some(1, 3, 5, 4), share=0.01)


@pytest.mark.parametrize("value", [100.0, -100.0, 0.5 * 0.0503, -np.inf, np.nan])
def test_a_pad_off_the_grid_is_refused(value: float) -> None:
    file = File((3, 5, 4))
    made = file.bytes(file.on_grid(_convolved(file, _padded(file, value)), 0.1507))
    with pytest.raises(UserError, match=rf"node 'n\d+' \(Pad\): its value {value:g} is not on its input's grid"):
        lower(made)


def test_a_pad_by_what_is_no_constant_is_refused() -> None:
    file = File((3, 5, 4))
    x = file.on_grid("input", 0.0503, 5)
    number = file.node("ReduceMax", x, file.constant(np.array([1, 2, 3])), keepdims=0)
    padded = file.node("Pad", x, file.constant(AROUND), number)
    with pytest.raises(UserError, match=r"node 'n\d+' \(Pad\): its value must be a constant"):
        lower(file.bytes(file.on_grid(_convolved(file, padded), 0.1507)))


@pytest.mark.parametrize("value", [-np.inf, -1000.0])
def test_a_pad_below_the_grid_is_never_the_largest(value: float) -> None:
    file = File((3, 5, 4))
    agrees(file.bytes(file.node("MaxPool", _padded(file, value), kernel_shape=[3, 3])), some(2, 3, 5, 4), share=0)


def test_a_pad_below_the_grid_that_something_else_sees_is_refused() -> None:
    """Another reader; and a window of nothing but pads, whose maximum is what was added."""
    file = File((3, 5, 4))
    padded = _padded(file, -np.inf)
    one = file.node("MaxPool", padded, kernel_shape=[3, 3])
    both = file.node("Add", one, file.node("Slice", padded, *(file.constant(np.array(v)) for v in ([2], [-2], [2]))))
    several = file.bytes(file.on_grid(both, 0.1007))
    file = File((3, 5, 4))
    alone = file.bytes(file.node("MaxPool", _padded(file, -np.inf), kernel_shape=[3, 2]))
    for onnx_file in (several, alone):
        with pytest.raises(UserError, match=r"\(Pad\): its value -inf is not on its input's grid"):
            lower(onnx_file)


@pytest.mark.parametrize("scale", [0.0503, 0.0771])
@pytest.mark.parametrize("value", [100.0, -np.inf, 1.234])
def test_a_pad_that_is_quantized_next_ends_on_that_grid(value: float, scale: float) -> None:
    file = File((3, 5, 4))
    graph = agrees(file.bytes(file.on_grid(_padded(file, value), scale, 5)), some(3, 3, 5, 4))
    assert sum(isinstance(operator, Pad) for operator in graph.operators) == 1


def _convolution(file: File, x: str, *axes: int) -> str:
    """Of six channels to four, three wide along each axis."""
    weight = file.weight(np.random.default_rng(1).integers(-127, 128, (4, 6, *axes)), np.full(4, 0.0053))
    return file.node("Conv", x, weight, pads=[0, 1] * len(axes))


SPATIAL = {
    "rows and columns": ((6, 5, 4), [0, 0, 1, 1, 0, 0, 2, 1]),
    "in front": ((6, 9), [0, 0, 2, 0, 0, 0]),
}


@pytest.mark.parametrize("case", SPATIAL)
@pytest.mark.parametrize("first", [True, False], ids=["first layer", "behind another"])
def test_a_convolution_pads_by_itself(case: str, first: bool, tmp_path: Path) -> None:
    shape, amounts = SPATIAL[case]
    axes, file = [3] * (len(shape) - 1), File(shape)
    x = file.on_grid("input", 0.0211, 5)
    if not first:
        weight = file.weight(np.random.default_rng(0).integers(-127, 128, (6, 1, *axes)), np.full(6, 0.0103))
        x = file.on_grid(file.node("Conv", x, weight, group=6, pads=[1] * 2 * len(axes)), 0.0307, 3)
    y = _convolution(file, file.node("Pad", x, file.constant(np.array(amounts))), *axes)
    graph = agrees(file.bytes(file.on_grid(y, 0.1507)), some(1, *shape), share=0.01)
    assert not any(isinstance(operator, Pad) for operator in graph.operators)
    entering = graph.quantized(some(1, *shape))
    (run,) = natively([graph], tmp_path)
    assert np.array_equal(run(entering), reference.run(graph, entering))


@pytest.mark.parametrize(
    ("amounts", "value"),
    [
        ([0, 0, 1, 1, 0, 0, 1, 1], 0.0211),  # not zero
        ([0, 2, 1, 1, 0, 1, 1, 1], 0.0),  # channels too
        ([0, 0, 1, 3, 0, 0, 1, 1], 0.0),  # a window of nothing but pads
    ],
)
def test_other_pads_before_a_convolution_stay(amounts: list[int], value: float) -> None:
    channels = 3 if amounts[1] else 6
    file = File((channels, 5, 4))
    x = file.on_grid("input", 0.0211, 5)
    y = file.node("Pad", x, file.constant(np.array(amounts)), file.constant(np.float32(value)))
    graph = agrees(file.bytes(file.on_grid(_convolution(file, y, 3, 3), 0.1507)), some(1, channels, 5, 4), share=0.01)
    assert any(isinstance(operator, Pad) for operator in graph.operators)
