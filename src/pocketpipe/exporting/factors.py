"""Weights with few distinct values keep them in the file: what BatchNorm multiplies channels by stands beside.

Folding a BatchNorm into a weight gives each output channel a table of its own, and the shared values are gone. Here the
file gets the shared values and the factors of the channels instead of their product. ONNX Runtime and compilers
multiply the two constants when they load the file: it computes the same at the same speed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from onnx import ModelProto

CLOSE = 1e-5
"""Largest difference between a folded weight and the product, relative to its largest element."""

Weight = NDArray[np.float32]


def factor_out(model: ModelProto, shared: Mapping[str, Weight]) -> None:
    """Put the `shared` weights (by the initializer's name, before folding) back, with factors in nodes of their own.

    Weights that were not folded, and those that are no product of a shared weight and factors, stay as they are.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    nodes = []
    for tensor in list(graph.initializer):
        weight, values = shared.get(tensor.name), numpy_helper.to_array(tensor)
        if weight is None or tensor.data_type != tensor.FLOAT or weight.shape != values.shape:
            continue
        if np.array_equal(weight, values):
            continue
        factors = _factors(values, weight)
        if factors is None:
            continue
        product, factor = f"{tensor.name}.scaled", f"{tensor.name}.factor"
        for node in graph.node:
            for position, name in enumerate(node.input):
                if name == tensor.name:
                    node.input[position] = product
        nodes.append(helper.make_node("Mul", [tensor.name, factor], [product], name=product))
        tensor.CopyFrom(numpy_helper.from_array(weight + np.float32(0), tensor.name))
        graph.initializer.append(numpy_helper.from_array(factors, factor))
    for node in reversed(nodes):
        graph.node.insert(0, node)


def _factors(folded: Weight, weight: Weight) -> Weight | None:
    """(channels, 1, ...) or (1, channels, ...) such that `weight * factors` is `folded`; None if there are none."""
    for axis in range(min(2, weight.ndim)):
        others = tuple(dim for dim in range(weight.ndim) if dim != axis)
        wide = weight.astype(np.float64)
        squares = (wide**2).sum(axis=others, keepdims=True)
        factors: Weight = ((folded * wide).sum(axis=others, keepdims=True) / np.where(squares > 0, squares, 1)).astype(
            np.float32
        )
        if np.abs(weight * factors - folded).max(initial=0) <= CLOSE * np.abs(folded).max(initial=0):
            return factors
    return None
