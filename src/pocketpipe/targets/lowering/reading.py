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
from pocketpipe.integer.onnx_file import attributes, constants_of, folded, inferred, only_ends, shapes_of
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
    model = folded(data)
    _without_dropout(model)
    _constants_as_initializers(model)
    _refuse_unknown_operators(model)
    _refuse_other_signatures(model)
    _refuse_what_is_read_wrongly(model, shapes_of(inferred(data)))
    _powers_of_floats(model)
    _gather_as_slice(model)
    _several_as_pairs(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            read = from_onnx(model, keep_params_in_input=False)
        except Exception as error:  # whatever its importer runs into
            reason = f"{type(error).__name__}: {(str(error).strip() or 'nothing more').splitlines()[-1]}"
            raise UserError(f"the ONNX file cannot be compiled: TVM's importer says: {reason}") from error
        try:
            module = _simplify(read)
        except REFUSALS as error:
            reason = str(error).strip().splitlines()[-1]
            raise UserError(f"the ONNX file cannot be compiled: TVM says: {reason}") from error
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


def _without_dropout(model: ModelProto) -> None:
    """Dropout in a delivered network passes on what it gets; second outputs that nobody reads go (of MaxPool)."""
    read = {name for node in model.graph.node for name in node.input} | {value.name for value in model.graph.output}
    for node in model.graph.node:
        if node.op_type in ("Dropout", "MaxPool") and read.isdisjoint(node.output[1:]):
            del node.output[1:]
        if node.op_type == "Dropout" and len(node.output) == 1:
            node.CopyFrom(helper.make_node("Identity", node.input[:1], node.output, name=node.name))


def _constants_as_initializers(model: ModelProto) -> None:
    """The importer knows few forms of Constant nodes, and what looks for constants looks for initializers."""
    graph = model.graph
    known, stored = constants_of(model), {tensor.name for tensor in graph.initializer}
    graph.initializer.extend(numpy_helper.from_array(known[name], name) for name in known if name not in stored)
    nodes = [node for node in graph.node if node.op_type != "Constant" or node.output[0] not in known]
    del graph.node[:]
    graph.node.extend(nodes)


def _powers_of_floats(model: ModelProto) -> None:
    """A whole exponent as a float: the importer wants both of one type."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        exponent = constants.get(node.input[1]) if node.op_type == "Pow" else None
        if exponent is not None and exponent.data_type != onnx.TensorProto.FLOAT:
            node.input[1] = f"{node.output[0]}.exponent"
            values = numpy_helper.to_array(exponent).astype(np.float32)
            model.graph.initializer.append(numpy_helper.from_array(values, node.input[1]))


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
            elif shapes.get(node.input[0], ())[:2] != shapes.get(node.output[0], ())[:2]:
                reason = "only pixels are resized, not channels"
        elif node.op_type == "ConvTranspose" and "output_shape" in given:
            reason = "output_shape is not compiled; give pads and output_padding"
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
    made, name = module["main"].body.body.ty, model.graph.output[0].name
    kind = made.dtype
    if not len(made.shape) or int(made.shape[0]) != 1:
        raise UserError(f"output {name!r} of the ONNX file has no axis of its own for the batch; let it begin with 1")
    if str(kind) != "float32":
        raise UserError(f"output {name!r} of the ONNX file is {kind}, not float32; let the network end before it")
