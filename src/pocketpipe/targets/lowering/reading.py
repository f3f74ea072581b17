"""ONNX file -> Relax, channels last, constants folded."""

import warnings
from typing import Any

import numpy as np
import onnx
import tvm
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx, onnx_frontend

from pocketpipe.errors import UserError
from pocketpipe.integer.onnx_file import attributes, inferred, only_ends, parsed, shapes_of
from pocketpipe.targets.lowering.rewriting import (
    with_axes_from_the_front,
    with_clips_as_operators,
    with_moved_constants,
)

LAYOUTS = {"relax.nn.conv2d": ["NHWC", "HWIO"], "relax.nn.conv2d_transpose": ["NCHW", "IOHW"]}
"""Channels last, but where TVM has no loops for it."""
COMPARED = {"Max": "Greater", "Min": "Less"}


REFUSALS = (ValueError, RuntimeError)
"""What TVM raises for what it does not know; its own errors are runtime errors."""


def read_onnx(data: bytes) -> Any:
    """The IRModule of an ONNX file whose `main` takes one float32 tensor and returns one.

    Raises UserError that names node and operator where TVM has no counterpart, for several inputs or outputs, and for
    those of another type.
    """
    model = parsed(data)
    _refuse_unknown_operators(model)
    _refuse_other_signatures(model)
    _refuse_what_is_read_wrongly(model, shapes_of(inferred(data)))
    _gather_as_slice(model)
    _several_as_pairs(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            module = _simplify(from_onnx(model, keep_params_in_input=False))
        except REFUSALS as error:
            reason = str(error).strip().splitlines()[-1]
            raise UserError(f"the ONNX file cannot be compiled: TVM's importer says: {reason}") from error
    _refuse_another_output(module, model)
    return module


def _simplify(module: Any) -> Any:
    transform = relax.transform
    with tvm.target.Target("llvm"), tvm.transform.PassContext(opt_level=3):
        for step in (
            transform.DecomposeOpsForInference(),
            transform.CanonicalizeBindings(),
            with_axes_from_the_front,
            transform.EliminateCommonSubexpr(),  # a weight used in every step of an RNN is transposed once
            with_moved_constants,
            transform.FoldConstant(),
            with_clips_as_operators,
            transform.ConvertLayout(LAYOUTS),
            with_moved_constants,
            transform.FoldConstant(),
            transform.EliminateCommonSubexpr(),
            transform.CanonicalizeBindings(),
            transform.DeadCodeElimination(),
        ):
            module = step(module)
    return module


def _gather_as_slice(model: ModelProto) -> None:
    """Element i of an axis (a step of a sequence) as a slice: TVM's gather reads the index at run time, and warns."""
    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes: list[NodeProto] = []
    for node in graph.node:
        index = constants.get(node.input[1]) if node.op_type == "Gather" else None
        nodes += [node] if index is None or index.ndim else _slice(node, int(index), graph)
    del graph.node[:]
    graph.node.extend(nodes)


def _slice(gather: NodeProto, index: int, graph: GraphProto) -> list[NodeProto]:
    axis = attributes(gather).get("axis", 0)
    bounds = {"first": index, "last": index + 1 if index != -1 else np.iinfo(np.int64).max, "axis": axis}
    name = gather.output[0]
    for bound, value in bounds.items():
        graph.initializer.append(numpy_helper.from_array(np.array([value], np.int64), f"{name}.{bound}"))
    return [
        helper.make_node("Slice", [gather.input[0], *(f"{name}.{bound}" for bound in bounds)], [f"{name}.slice"]),
        helper.make_node("Squeeze", [f"{name}.slice", f"{name}.axis"], [name]),
    ]


def _several_as_pairs(model: ModelProto) -> None:
    """Max, Min, Sum and Mean of several tensors by two at a time: the importer stacks them, along a fifth axis."""
    graph = model.graph
    nodes: list[NodeProto] = []
    for node in graph.node:
        nodes += _pairs(node, graph) if node.op_type in ("Max", "Min", "Sum", "Mean") else [node]
    del graph.node[:]
    graph.node.extend(nodes)


def _pairs(node: NodeProto, graph: GraphProto) -> list[NodeProto]:
    made: list[NodeProto] = []
    last, name = node.input[0], node.output[0]
    for number, other in enumerate(node.input[1:]):
        out = f"{name}.{number}"
        if node.op_type in COMPARED:
            made.append(helper.make_node(COMPARED[node.op_type], [last, other], [f"{out}.first"]))
            made.append(helper.make_node("Where", [f"{out}.first", last, other], [out]))
        else:
            made.append(helper.make_node("Add", [last, other], [out]))
        last = out
    if node.op_type == "Mean":
        count = numpy_helper.from_array(np.array(1 / len(node.input), np.float32), f"{name}.share")
        graph.initializer.append(count)
        return [*made, helper.make_node("Mul", [last, count.name], [name])]
    return [*made, helper.make_node("Identity", [last], [name])]


def _refuse_what_is_read_wrongly(model: ModelProto, shapes: dict[str, tuple[int, ...]]) -> None:
    """What TVM's importer takes for something else, without a word."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        given, reason = attributes(node), None
        if node.op_type == "Resize":
            scales = constants.get(node.input[2]) if len(node.input) > 2 else None
            lengths = np.array(shapes.get(node.input[0], ()), float)
            if given.get("antialias", 0):
                reason = "antialiasing is not compiled; resize without it"
            elif scales is not None and len(scales) == len(lengths) and ((scales * lengths) % 1).any():
                reason = "these scales make no whole number of pixels; give the size instead"
        elif node.op_type == "MaxPool" and given.get("auto_pad", b"NOTSET") == b"SAME_LOWER":
            reason = "auto_pad SAME_LOWER is not compiled; give pads in numbers"
        if reason is not None:
            raise UserError(f"node {node.name or node.output[0]!r} ({node.op_type}): {reason}")


def _refuse_unknown_operators(model: ModelProto) -> None:
    known = onnx_frontend._get_convert_map()
    for node in model.graph.node:
        if known.get(node.op_type) is None and node.op_type != "Constant":
            raise UserError(
                f"node {node.name or node.output[0]!r}: operator {node.op_type} cannot be compiled (TVM does not have "
                "it); write it in other operators, or leave this target out"
            )


def _refuse_other_signatures(model: ModelProto) -> None:
    entry, _ = only_ends(model, "is compiled")
    kind = entry.type.tensor_type
    shape = [dimension.dim_value for dimension in kind.shape.dim]
    if kind.elem_type != onnx.TensorProto.FLOAT or min(shape, default=0) < 1:
        raise UserError(f"input {entry.name!r} of the ONNX file must be float32 of fixed shape; export it with batch 1")


def _refuse_another_output(module: Any, model: ModelProto) -> None:
    """Callers have room for float32, whatever a file says that it gives."""
    kind = module["main"].body.body.ty.dtype
    if str(kind) != "float32":
        name = model.graph.output[0].name
        raise UserError(f"output {name!r} of the ONNX file is {kind}, not float32; let the network end before it")
