"""What an integer graph computes: the definition. Every target gives these very integers.

NumPy, batches along axis 0. Sums are taken in float64 by matrix products, which is exact: they stay below 2^53
(`proof` shows them below 2^31).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch
from math import prod

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from pocketpipe.integer.fixed_point import FRACTION_BITS, over_root, scaled
from pocketpipe.integer.graph import (
    Add,
    Concatenation,
    Convolution,
    IntegerGraph,
    LayerNorm,
    Linear,
    MatMul,
    MaxPool,
    Multiply,
    Operator,
    Pad,
    Reshape,
    Slice,
    Softmax,
    SumPool,
    Table,
    Transpose,
)
from pocketpipe.samples import in_batches

LOWEST = -128


MOST_AT_ONCE = 16
"""Examples: more of them only leave the processor's caches."""
MOST_NUMBERS = 2**26
"""Of a layer's windows, in float64, that lie in memory at once: half a gigabyte, or those of one example."""


def run(graph: IntegerGraph, inputs: np.ndarray) -> np.ndarray:
    """int8 outputs (N, ...) for int8 inputs (N, *shape of the input); a few examples at once, to spare memory."""
    largest = max((_numbers(operator, graph) for operator in graph.operators), default=1)
    count = max(1, min(MOST_AT_ONCE, MOST_NUMBERS // largest))
    parts = list(in_batches(inputs, count)) or [inputs]
    return np.concatenate([run_all(graph, part)[graph.output] for part in parts])


def _numbers(operator: Operator, graph: IntegerGraph) -> int:
    """That lie in memory for one example while the operator is computed."""
    made = graph.tensors[operator.output].shape
    if isinstance(operator, Convolution):
        return prod(made[:2]) * operator.groups * prod(operator.weight.shape[1:])
    return prod(made) * (prod(operator.window) if isinstance(operator, MaxPool | SumPool) else 1)


def run_all(graph: IntegerGraph, inputs: np.ndarray) -> dict[str, np.ndarray]:
    """Every tensor by its name: to find the first operator that a target computes otherwise."""
    values = {graph.input: inputs}
    for operator in graph.operators:
        values[operator.output] = compute(operator, *(values[name] for name in operator.inputs))
    return values


@singledispatch
def compute(operator: Operator, *inputs: np.ndarray) -> np.ndarray:
    """The operator's int8 output."""
    raise NotImplementedError(type(operator).__name__)


@compute.register
def _(operator: Convolution, x: np.ndarray) -> np.ndarray:
    made, *window, read = operator.weight.shape
    groups = operator.groups
    windows = _windows(x, window, operator.strides, operator.pads, operator.padding_value, operator.dilations)
    batch, height, width = windows.shape[:3]
    by_group = windows.reshape(batch, height * width, groups, read, -1).transpose(0, 2, 1, 4, 3)
    kernels = operator.weight.reshape(groups, made // groups, -1).transpose(0, 2, 1)
    sums = _product(by_group.reshape(batch, groups, height * width, -1), kernels)
    return operator.requantization(sums.transpose(0, 2, 1, 3).reshape(batch, height, width, made) + operator.bias)


@compute.register
def _(operator: Linear, x: np.ndarray) -> np.ndarray:
    return operator.requantization(_product(x, operator.weight.T) + operator.bias)


@compute.register
def _(operator: MatMul, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    zero_left, zero_right = operator.zero_points
    product = _product(left.astype(np.int64) - zero_left, right.astype(np.int64) - zero_right)
    return operator.requantization(product)


@compute.register
def _(operator: Add, *inputs: np.ndarray) -> np.ndarray:
    parts = zip(inputs, operator.zero_points, operator.multipliers, strict=True)
    total = sum((x.astype(np.int64) - zero_point) * multiplier for x, zero_point, multiplier in parts)
    rounded = scaled(np.asarray(total), operator.shift) + operator.zero_point
    clipped: np.ndarray = np.clip(rounded, operator.low, operator.high).astype(np.int8)
    return clipped


@compute.register
def _(operator: Multiply, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    zero_left, zero_right = operator.zero_points
    product = (left.astype(np.int64) - zero_left) * (right.astype(np.int64) - zero_right)
    return operator.requantization(product)


@compute.register
def _(operator: LayerNorm, x: np.ndarray) -> np.ndarray:
    q, n = x.astype(np.int64), x.shape[-1]
    total = q.sum(-1, keepdims=True)
    spread = n * (q * q).sum(-1, keepdims=True) - total * total + operator.epsilon
    normal = over_root(n * q - total, spread)
    bias = operator.bias.astype(np.int64) << (operator.shift - FRACTION_BITS)
    rounded = scaled(normal * operator.multiplier + bias, operator.shift) + operator.zero_point
    clipped: np.ndarray = np.clip(rounded, operator.low, operator.high).astype(np.int8)
    return clipped


@compute.register
def _(operator: Softmax, x: np.ndarray) -> np.ndarray:
    q = x.astype(np.int64)
    exponentials = operator.exponentials.astype(np.int64)[q.max(-1, keepdims=True) - q]
    reciprocal = (np.int64(1) << 60) // exponentials.sum(-1, keepdims=True)
    return operator.requantization(scaled(exponentials * reciprocal, 30))


@compute.register
def _(operator: SumPool, x: np.ndarray) -> np.ndarray:
    windows = _windows(x, operator.window, operator.strides, operator.pads, operator.input_zero_point)
    sums = (windows.astype(np.int64) - operator.input_zero_point).sum((-2, -1))
    return operator.requantization(sums)


@compute.register
def _(operator: MaxPool, x: np.ndarray) -> np.ndarray:
    largest: np.ndarray = _windows(x, operator.window, operator.strides, operator.pads, LOWEST).max((-2, -1))
    return largest


@compute.register
def _(operator: Table, x: np.ndarray) -> np.ndarray:
    found: np.ndarray = operator.entries[x.astype(np.int64) - LOWEST]
    return found


@compute.register
def _(operator: Concatenation, *inputs: np.ndarray) -> np.ndarray:
    return np.concatenate(inputs, operator.axis)


@compute.register
def _(operator: Pad, x: np.ndarray) -> np.ndarray:
    return np.pad(x, ((0, 0), *operator.amounts), constant_values=operator.value)


@compute.register
def _(operator: Slice, x: np.ndarray) -> np.ndarray:
    ranges = (slice(start, stop if stop >= 0 else None, step) for start, stop, step in operator.ranges)
    return x[(slice(None), *ranges)]


@compute.register
def _(operator: Transpose, x: np.ndarray) -> np.ndarray:
    return x.transpose(operator.order)


@compute.register
def _(operator: Reshape, x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), *operator.shape)


def _product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    product: np.ndarray = (left.astype(np.float64) @ right.astype(np.float64)).astype(np.int64)
    return product


def _windows(
    x: np.ndarray,
    window: Sequence[int],
    strides: tuple[int, int],
    pads: tuple[int, int, int, int],
    value: int,
    dilations: tuple[int, int] = (1, 1),
) -> np.ndarray:
    """(N, H, W, C) -> (N, rows, columns, C, *window) of the padded input."""
    top, left, bottom, right = pads
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=value)
    spans = tuple((size - 1) * dilation + 1 for size, dilation in zip(window, dilations, strict=True))
    windows = sliding_window_view(padded, spans, axis=(1, 2))
    return windows[:, :: strides[0], :: strides[1], :, :: dilations[0], :: dilations[1]]
