"""Onto the grid and off it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pocketpipe.integer.graph import IntegerTensor
from pocketpipe.integer.lowering import Lowering
from pocketpipe.integer.real import Constant, Real, Sum
from pocketpipe.integer.rules.registry import attributes, rule

if TYPE_CHECKING:
    from onnx import NodeProto


TYPES = {0: np.uint8, 2: np.uint8, 3: np.int8}
"""By ONNX's number (`TensorProto.DataType`); 0: not said."""


@rule("QuantizeLinear")
def quantize_linear(lowering: Lowering, node: NodeProto) -> None:
    """The end of an operator."""
    scale, zero_point = lowering.constant(node, 1), lowering.constant(node, 2)
    if scale is None or scale.values.size != 1:
        raise lowering.refusal(node, "activations must be quantized per tensor, by a constant scale")
    # Without a zero point the type is said by an attribute (opset 21), or is uint8.
    said = attributes(node).get("output_dtype", 0)
    if zero_point is None and said not in TYPES:
        raise lowering.refusal(node, f"integers of ONNX's type {said} are not supported; use int8")
    zero = zero_point.values if zero_point is not None else np.zeros((), TYPES[said])
    offset, low, high = _int8_grid(lowering, node, zero)
    source = node.input[0]
    if source == lowering.input_name or source in lowering.clipped:
        name = node.output[0]
        bounds = np.array(lowering.clipped.get(source, (-np.inf, np.inf))) / float(scale.values) + (int(zero) - offset)
        low, high = (int(bound) for bound in np.clip(bounds.round(), low, high))
        made = IntegerTensor(lowering.shapes[source], float(scale.values), int(zero) - offset, low, high)
        lowering.tensors[name], lowering.entry, lowering.quantized[name] = made, name, name
        return
    value = lowering.known.get(source)
    if not isinstance(value, Real | Sum):
        raise lowering.refusal(node, f"nothing is known of its input {source!r}")
    lowering.quantize(node, value, float(scale.values), int(zero) - offset, (low, high))


def _int8_grid(lowering: Lowering, node: NodeProto, zero_point: np.ndarray) -> tuple[int, int, int]:
    """(what is taken off to come from the file's integers to int8, lowest, highest)."""
    grids = {"int8": (0, -128, 127), "uint8": (128, -128, 127), "int4": (0, -8, 7), "uint4": (8, -8, 7)}
    if zero_point.dtype.name not in grids:
        raise lowering.refusal(node, f"integers of type {zero_point.dtype} are not supported; use int8")
    return grids[zero_point.dtype.name]


@rule("DequantizeLinear")
def dequantize_linear(lowering: Lowering, node: NodeProto) -> None:
    """Integers as real numbers: constants at once, tensors by name."""
    source = node.input[0]
    if source in lowering.quantized:
        lowering.known[node.output[0]] = Real(str(lowering.quantized[source]))
        return
    stored, scale, zero_point = (lowering.constant(node, position) for position in range(3))
    if stored is None or scale is None:
        raise lowering.refusal(node, f"its input {source!r} is neither quantized here nor a constant")
    if zero_point is not None and np.any(zero_point.values.astype(np.int64)):
        raise lowering.refusal(node, "weights must be symmetric (zero point 0)")
    axis = attributes(node).get("axis", 1)
    shape = [1] * stored.values.ndim
    if scale.values.size > 1:
        shape[axis] = -1
    factor = scale.values.astype(np.float64).reshape(shape)
    integers = stored.values.astype(np.int64)
    lowering.known[node.output[0]] = Constant(integers * factor, integers, scale.values.astype(np.float64).reshape(-1))
