"""The accumulator proof against brute force: inputs that reach the bound, and none that passes it."""

import numpy as np
import pytest

from integer.qdq import File
from pocketpipe.errors import Mistakes
from pocketpipe.integer.fixed_point import Requantization
from pocketpipe.integer.graph import Convolution, IntegerGraph, IntegerTensor, Linear, MatMul, SumPool
from pocketpipe.integer.lowering import lower
from pocketpipe.integer.proof import UNSIGNED_OFFSET, bounds, prove


def small_linear(bias: float = 0.0) -> IntegerGraph:
    file = File((3,))
    weight = file.weight(np.array([[100, -50, 7], [1, 2, 3]]).T, np.full(2, 0.01), axis=1)
    y = file.node("Gemm", file.on_grid("input", 0.02, -10), weight, file.constant(np.full(2, bias, np.float32)))
    return lower(file.bytes(file.on_grid(y, 0.1)))


def test_no_input_passes_the_bound() -> None:
    graph = small_linear(bias=0.5)
    (operator,) = graph.operators
    assert isinstance(operator, Linear)
    (bound,) = bounds(graph)
    corners = np.array(np.meshgrid(*[[-128, 0, 127]] * 3)).reshape(3, -1)
    signed = operator.weight.astype(int) @ corners + operator.bias[:, None]
    taken_out = operator.bias[:, None] - UNSIGNED_OFFSET * operator.weight.astype(int).sum(1)[:, None]
    unsigned = operator.weight.astype(int) @ (corners + UNSIGNED_OFFSET) + taken_out
    assert np.array_equal(signed, unsigned)
    assert abs(signed).max() <= bound.largest
    assert bound.largest <= 157 * 255 + abs(taken_out).max()


def test_products_of_tensors_and_sums_over_windows_have_bounds_that_are_reached() -> None:
    requantization = Requantization(np.array([2**30], np.int32), np.array([40], np.int32), 0, -128, 127)
    tensors = {
        "x": IntegerTensor((2, 2, 3), 1.0, 5, low=-100, high=90),
        "y": IntegerTensor((2, 3, 4), 1.0, -7, low=-128, high=127),
        "product": IntegerTensor((2, 2, 4), 1.0, 0),
        "sum": IntegerTensor((1, 1, 3), 1.0, 0),
    }
    operators = (
        MatMul("product", ("x", "y"), "product", (5, -7), requantization),
        SumPool("sum", ("x",), "sum", (2, 2), (1, 1), (0, 0, 0, 0), 5, requantization),
    )
    product, total = bounds(IntegerGraph(tensors, operators, "x", "sum"))
    left, right = ([q - zero for q in (low, high)] for low, high, zero in ((-100, 90, 5), (-128, 127, -7)))
    assert product.largest == 3 * max(abs(a * b) for a in left for b in right)
    assert total.largest == 4 * max(map(abs, left))


def test_too_few_bits_are_an_error_that_names_the_layer() -> None:
    graph = small_linear()
    (bound,) = prove(graph)
    prove(graph, bits=bound.bits)
    with pytest.raises(Mistakes, match=rf"layer 'n\d+': a sum can reach [\d,]+, which takes {bound.bits} bits"):
        prove(graph, bits=bound.bits - 1)


def test_a_convolutions_bound_is_that_of_its_worst_channel() -> None:
    file = File((2, 4, 4))
    integers = np.zeros((3, 2, 3, 3), int)
    integers[1] = 127
    y = file.node("Conv", file.on_grid("input", 0.02), file.weight(integers, np.full(3, 0.01)))
    graph = lower(file.bytes(file.on_grid(y, 0.1)))
    assert isinstance(graph.operators[1], Convolution)  # after the input was turned to channels last
    assert bounds(graph)[0].largest == 18 * 127 * 255 + 18 * 127 * 128
