"""Constants that are moved before something reads them: a weight that is reshaped, cut or repeated."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np

from pocketpipe.errors import first_line
from pocketpipe.integer.lowering import Lowering
from pocketpipe.integer.real import Constant

if TYPE_CHECKING:
    from onnx import NodeProto


def move_constant(lowering: Lowering, node: NodeProto) -> bool:
    """Whether the node reads a constant; then what it makes of it is known, by where each number comes from.

    Raises UserError where the scales no longer lie along one axis, and where a tensor says what is moved where.
    """
    constant = lowering.constant(node, 0)
    if constant is None:
        return False
    places = np.arange(constant.values.size).reshape(constant.values.shape)
    for name, origin in zip(node.output, _made(lowering, node, places), strict=True):
        lowering.known[name] = _at(lowering, node, constant, np.asarray(origin))
    return True


def _at(lowering: Lowering, node: NodeProto, constant: Constant, origin: np.ndarray) -> Constant:
    """The constant's numbers of these places (in its order in memory)."""
    values = constant.values.reshape(-1)[origin]
    if constant.quantized is None or constant.scale is None:
        return Constant(values)
    integers = constant.quantized.reshape(-1)[origin]
    along = np.zeros(origin.shape, np.int64)
    if constant.scale.size > 1:
        along[...] = np.unravel_index(origin, constant.values.shape)[constant.axis]
    used = np.unique(along)
    if used.size == 1:
        return Constant(values, integers, constant.scale[used])
    for axis in range(origin.ndim):
        of_each = np.moveaxis(along, axis, 0).reshape(origin.shape[axis], -1)
        if np.all(of_each == of_each[:, :1]):
            return Constant(values, integers, constant.scale[of_each[:, 0]], axis)
    raise lowering.refusal(node, "what it makes has its scales along no one axis; quantize the weight per tensor")


def _made(lowering: Lowering, node: NodeProto, first: np.ndarray) -> list[np.ndarray]:
    """What ONNX's own definition of the node makes of `first` in the place of its first input."""
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    given = {node.input[0]: first}
    for position, name in enumerate(node.input):
        if name and position:
            argument = lowering.constant(node, position)
            if argument is None:
                raise lowering.refusal(node, f"of a constant, only by constants; {name!r} is none")
            given[name] = argument.values
    kinds = {name: helper.np_dtype_to_tensor_dtype(values.dtype) for name, values in given.items()}
    inputs = [helper.make_tensor_value_info(name, kind, given[name].shape) for name, kind in kinds.items()]
    outputs = [helper.make_tensor_value_info(name, kinds[node.input[0]], None) for name in node.output]
    graph = helper.make_graph([_plain(node, first.ndim, lowering.opset)], "moved", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", lowering.opset)])
    try:
        made = ReferenceEvaluator(model).run(None, given)
    except Exception as error:  # whatever NumPy says of arguments that do not fit
        raise lowering.refusal(node, f"cannot be carried out on its constant ({first_line(error)})") from error
    assert isinstance(made, list)
    return made


def _plain(node: NodeProto, rank: int, opset: int) -> NodeProto:
    """The node as the reference takes it: without a domain, and axes of an old Squeeze counted from the front."""
    plain = copy.deepcopy(node)
    plain.domain = ""
    if node.op_type == "Squeeze" and opset < 13:
        for attribute in plain.attribute:
            attribute.ints[:] = [axis % rank for axis in attribute.ints]
    return plain
