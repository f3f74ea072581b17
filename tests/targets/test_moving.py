"""Boxes, moved number by number, against NumPy."""

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest

from pocketpipe.integer.graph import Concatenation, IntegerGraph, IntegerTensor, Operator, Pad, Slice, Transpose
from pocketpipe.targets.moving import moves

Shape = tuple[int, ...]
FILL = -7


def moved(operator: Operator, given: dict[str, np.ndarray], shape: Shape) -> np.ndarray:
    """What the operator makes of the tensors, among `FILL`."""
    shapes = {name: values.shape for name, values in given.items()} | {operator.output: shape}
    graph = IntegerGraph({name: IntegerTensor(s, 1.0, 0) for name, s in shapes.items()}, (operator,), "x", "out")
    made = np.full(shape, FILL)
    flat = made.reshape(-1)
    for move in moves(operator, graph):
        source, box = given[move.source].reshape(-1), move.box
        for index in product(*map(range, box.lengths)):
            place, end = np.dot(index, box.source_steps), np.dot(index, box.sink_steps)
            flat[move.sink_start + end] = source[move.start + place]
    return made


@pytest.mark.parametrize("axis", range(3))
def test_concatenation(axis: int) -> None:
    shapes = [tuple(length if i == axis else size for i, size in enumerate((2, 3, 4))) for length in (3, 1, 2)]
    given = {name: np.random.default_rng(i).integers(100, size=shapes[i]) for i, name in enumerate(("x", "y", "z"))}
    expected = np.concatenate(list(given.values()), axis)
    operator = Concatenation("together", ("x", "y", "z"), "out", axis + 1)
    assert np.array_equal(moved(operator, given, expected.shape), expected)


CASES: dict[str, tuple[Shape, Operator, Callable[[np.ndarray], np.ndarray]]] = {
    "pad": (
        (2, 3, 4), Pad("pad", ("x",), "out", ((1, 0), (0, 2), (3, 1)), FILL),
        lambda x: np.pad(x, ((1, 0), (0, 2), (3, 1)), constant_values=FILL),
    ),
    "slice": (
        (5, 7, 6), Slice("cut", ("x",), "out", ((1, 4, 1), (0, 7, 2), (2, 6, 3))), lambda x: x[1:4, ::2, 2:6:3]
    ),
    "slice of a row": ((9,), Slice("cut", ("x",), "out", ((3, 9, 2),)), lambda x: x[3:9:2]),
    "slice of four axes": (
        (2, 5, 3, 4), Slice("cut", ("x",), "out", ((0, 2, 1), (1, 5, 2), (0, 3, 1), (0, 4, 1))), lambda x: x[:, 1::2]
    ),
    "slice that goes back": (
        (5, 4), Slice("cut", ("x",), "out", ((4, -1, -2), (3, 0, -1))), lambda x: x[::-2, 3:0:-1]
    ),
    "slice of one element": ((2, 3), Slice("cut", ("x",), "out", ((1, 2, 1), (2, 3, 1))), lambda x: x[1:, 2:]),
    "transpose": ((2, 3, 4), Transpose("turn", ("x",), "out", (0, 3, 1, 2)), lambda x: x.transpose(2, 0, 1)),
    "transpose of four axes": (
        (2, 3, 4, 5), Transpose("turn", ("x",), "out", (0, 3, 1, 4, 2)), lambda x: x.transpose(2, 0, 3, 1)
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_moves_of_one_tensor(case: str) -> None:
    shape, operator, expected = CASES[case]
    x = np.random.default_rng(0).integers(100, size=shape)
    assert np.array_equal(moved(operator, {"x": x}, expected(x).shape), expected(x))
