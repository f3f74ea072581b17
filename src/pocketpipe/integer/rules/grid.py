"""Onto the grid and off it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pocketpipe.integer.fixed_point import CALIBRATED
from pocketpipe.integer.graph import IntegerTensor
from pocketpipe.integer.lowering import Lowering
from pocketpipe.integer.onnx_file import attributes
from pocketpipe.integer.real import Constant, Real, Sum
from pocketpipe.integer.rules.functions import bound
from pocketpipe.integer.rules.registry import RULES, rule

if TYPE_CHECKING:
    from onnx import NodeProto


TYPES = {0: np.uint8, 2: np.uint8, 3: np.int8}
"""By ONNX's number (`TensorProto.DataType`); 0: not said."""

STORED = ("int4", "uint4", "int8", "uint8", "int16", "uint16", "int32")
"""Types of integers that a constant may be stored in."""
OFFSETS = {"int8": 0, "uint8": 128, "int4": 0, "uint4": 8}
"""What is taken off the file's integers so that they are signed."""


@rule("Constant")
def constant(lowering: Lowering, node: NodeProto) -> None:
    """Known from the start."""
    if node.output[0] not in lowering.known:
        raise lowering.refusal(node, "neither a tensor nor numbers")


@rule("QuantizeLinear")
def quantize_linear(lowering: Lowering, node: NodeProto) -> None:
    """The end of an operator; of a constant, the constant in integers."""
    _refuse_blocks(lowering, node)
    if lowering.constant(node, 0) is not None:
        _quantize_constant(lowering, node)
        return
    step, zero_point = _step(lowering, node), lowering.constant(node, 2)
    zero = zero_point.values if zero_point is not None else np.zeros((), _type_said(lowering, node))
    offset, low, high = _int8_grid(lowering, node, zero)
    lowering.offsets[node.output[0]] = offset
    low, high = _cut(lowering, node, offset, low, high)
    grid = (step, int(zero.item()) - offset)
    source = node.input[0]
    if source == lowering.input_name or source in lowering.clipped or source in lowering.moved_input:
        lowering.quantized[node.output[0]] = _enter(lowering, node, node.output[0], *grid, low, high)
        return
    value = lowering.known.get(source)
    if not isinstance(value, Real | Sum):
        raise lowering.refusal(node, f"nothing is known of its input {source!r}")
    lowering.quantize(node, value, *grid, (low, high))


def _step(lowering: Lowering, node: NodeProto) -> float:
    """The scale of a tensor's grid: one constant above 0."""
    scale = lowering.constant(node, 1)
    if scale is None or scale.values.size != 1:
        raise lowering.refusal(node, "activations must be quantized per tensor, by a constant scale")
    step = float(scale.values.item())
    if not 0 < step < np.inf:
        raise lowering.refusal(node, f"its scale is {step:g}; {CALIBRATED}")
    return step


def _type_said(lowering: Lowering, node: NodeProto) -> type:
    """Without a zero point the type is said by an attribute (opset 21), or is uint8. Raises UserError."""
    said = attributes(node).get("output_dtype", 0)
    if said not in TYPES:
        raise lowering.refusal(node, f"integers of ONNX's type {said} are not supported; use int8")
    return TYPES[said]


def _cut(lowering: Lowering, node: NodeProto, offset: int, low: int, high: int) -> tuple[int, int]:
    """The range, cut by a Clip that alone reads these integers."""
    clip = lowering.cuts.get(node.output[0])
    if clip is None:
        return low, high
    least, most = bound(lowering, clip, 1, low + offset), bound(lowering, clip, 2, high + offset)
    return max(low, int(min(least, most)) - offset), min(high, int(most) - offset)


def _quantize_constant(lowering: Lowering, node: NodeProto) -> None:
    """As ONNX says: halves to the even integer, saturated."""
    numbers, scale, zero_point = (lowering.constant(node, position) for position in range(3))
    if numbers is None or scale is None:
        raise lowering.refusal(node, "its scale must be a constant")
    zero = zero_point.values if zero_point is not None else np.zeros((), _type_said(lowering, node))
    offset, low, high = _int8_grid(lowering, node, zero)
    factor, added = (_along(lowering, node, values, numbers.values.ndim) for values in (scale.values, zero))
    integers = np.rint(numbers.values.astype(np.float32) / factor.astype(np.float32)) + added.astype(np.float32)
    lowering.known[node.output[0]] = Constant(np.clip(integers, low + offset, high + offset).astype(zero.dtype))


def _along(lowering: Lowering, node: NodeProto, values: np.ndarray, axes: int) -> np.ndarray:
    """One number, or those along the axis that the node names, shaped to be broadcast."""
    if values.size == 1:
        return values.reshape(())
    shape = [1] * axes
    shape[attributes(node).get("axis", 1)] = -1
    return values.reshape(shape)


def _enter(lowering: Lowering, node: NodeProto, name: str, scale: float, zero_point: int, low: int, high: int) -> str:
    """The integers that the node reads or makes of the network's input, maybe cut to a range or moved before.

    The grid is the entry's, and what moved the input moves integers. `name`: what the entry is called.
    """
    source = node.input[0]
    if source in lowering.clipped:
        bounds = np.array(lowering.clipped[source]) / scale + zero_point
        low, high = (int(bound) for bound in np.clip(bounds.round(), low, high))
    made = IntegerTensor(lowering.shapes[lowering.input_name], scale, zero_point, low, high)
    if lowering.entry and lowering.tensors[lowering.entry] != made:
        raise lowering.refusal(node, "the network's input is quantized before, to another grid; give it one")
    if not lowering.entry:
        lowering.tensors[name], lowering.entry = made, name
    return _moved(lowering, lowering.moved_input[source]) if source in lowering.moved_input else lowering.entry


def _enter_as_integers(lowering: Lowering, node: NodeProto) -> str:
    """The network's input, which is of integers already, on the grid that the node reads it on."""
    step, zero_point = _step(lowering, node), lowering.constant(node, 2)
    zero = np.zeros((), lowering.input_type) if zero_point is None else zero_point.values
    if zero.dtype != lowering.input_type:
        raise lowering.refusal(node, f"the network's input is {lowering.input_type.name}, and {zero.dtype.name} here")
    offset, low, high = _int8_grid(lowering, node, zero)
    return _enter(lowering, node, lowering.input_name, step, int(zero.item()) - offset, low, high)


def _moved(lowering: Lowering, nodes: tuple[NodeProto, ...]) -> str:
    """The integer tensor that `nodes` make of the entry. What they make in real numbers stays unknown to others."""
    lowering.known[lowering.input_name] = Real(lowering.entry)
    for node in nodes:
        made = node.output[0]
        if made in lowering.tensors:  # by an earlier QuantizeLinear
            lowering.known[made] = Real(made)
        else:
            RULES[node.op_type](lowering, node)
    moved = lowering.known[nodes[-1].output[0]]
    assert isinstance(moved, Real)
    for name in (lowering.input_name, *(node.output[0] for node in nodes)):
        del lowering.known[name]
    return moved.tensor


def _int8_grid(lowering: Lowering, node: NodeProto, zero_point: np.ndarray) -> tuple[int, int, int]:
    """(what is taken off to come from the file's integers to int8, lowest, highest)."""
    kind = zero_point.dtype.name
    if kind not in OFFSETS:
        raise lowering.refusal(node, f"integers of type {kind} are not supported; use int8")
    return OFFSETS[kind], *((-8, 7) if kind.endswith("int4") else (-128, 127))


@rule("DequantizeLinear")
def dequantize_linear(lowering: Lowering, node: NodeProto) -> None:
    """Integers as real numbers: constants at once, tensors by name.

    A constant's zero point is taken off: what is left need not fit int8, which layers alone ask of their weights.
    """
    _refuse_blocks(lowering, node)
    source = node.input[0]
    if source in lowering.quantized:
        _refuse_another_grid(lowering, node)
        lowering.known[node.output[0]] = Real(str(lowering.quantized[source]))
        return
    if source == lowering.input_name or source in lowering.moved_input:
        lowering.known[node.output[0]] = Real(_enter_as_integers(lowering, node))
        return
    stored, scale, zero_point = (lowering.constant(node, position) for position in range(3))
    if stored is None or scale is None:
        raise lowering.refusal(node, f"its input {source!r} is neither quantized here nor a constant")
    if stored.values.dtype.name not in STORED:
        raise lowering.refusal(node, f"its input is of type {stored.values.dtype.name}; weights are integers here")
    axis, axes = attributes(node).get("axis", 1), stored.values.ndim
    factor = _along(lowering, node, scale.values.astype(np.float64), axes)
    integers = stored.values.astype(np.int64)
    if zero_point is not None:
        integers = integers - _along(lowering, node, zero_point.values.astype(np.int64), axes)
    scales = scale.values.astype(np.float64).reshape(-1)
    lowering.known[node.output[0]] = Constant(integers * factor, integers, scales, axis % max(1, axes))


def _refuse_blocks(lowering: Lowering, node: NodeProto) -> None:
    """Blocks (opset 21) have a scale each; sums of products would end on no common one."""
    block = attributes(node).get("block_size", 0)
    if block:
        raise lowering.refusal(node, f"quantized in blocks (block_size {block}); quantize per tensor or per channel")


def _refuse_another_grid(lowering: Lowering, node: NodeProto) -> None:
    """Integers that are read on another grid than they were written on would be other numbers."""
    step, zero_point = _step(lowering, node), lowering.constant(node, 2)
    tensor = lowering.tensors[str(lowering.quantized[node.input[0]])]
    zero = 0 if zero_point is None else int(zero_point.values.item())
    if (step, zero - lowering.offsets[node.input[0]]) != (tensor.scale, tensor.zero_point):
        raise lowering.refusal(node, "its scale and zero point are not those of the QuantizeLinear before it")
