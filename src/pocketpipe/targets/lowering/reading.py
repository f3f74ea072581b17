"""ONNX file -> Relax, channels last, constants folded."""

import warnings
from typing import Any

import numpy as np
import onnx
import tvm
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper
from tvm import relax
from tvm.ir import GenericConst
from tvm.relax import PyExprMutator, expr_functor
from tvm.relax.frontend.onnx import from_onnx, onnx_frontend

from pocketpipe.errors import UserError
from pocketpipe.integer.onnx_file import attributes, only_ends

LOOPS = {"maximum": relax.op.maximum, "minimum": relax.op.minimum}
"""What the importer calls functions of loops that compute what these do."""


def read_onnx(data: bytes) -> Any:
    """The IRModule of an ONNX file whose `main` takes one float32 tensor and returns one.

    Raises UserError that names node and operator where TVM has no counterpart, for several inputs or outputs, and for
    those of another type.
    """
    model = onnx.load_from_string(data)
    _refuse_unknown_operators(model)
    _refuse_other_signatures(model)
    _gather_as_slice(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            module = _simplify(from_onnx(model, keep_params_in_input=False))
        except (ValueError, NotImplementedError, tvm.error.InternalError) as error:
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
            transform.EliminateCommonSubexpr(),  # a weight used in every step of an RNN is transposed once
            _moved_constants,
            transform.FoldConstant(),
            _clips_as_operators,
            transform.ConvertLayout({"relax.nn.conv2d": ["NHWC", "HWIO"]}),
            _moved_constants,
            transform.FoldConstant(),
            transform.EliminateCommonSubexpr(),
            transform.CanonicalizeBindings(),
            transform.DeadCodeElimination(),
        ):
            module = step(module)
    return module


@expr_functor.mutator
class _Moved(PyExprMutator):  # type: ignore[misc]
    """Transposed and reshaped constants as constants: TVM folds them too, but compiles a program for each, which takes
    longer than all the rest.
    """

    def visit_call_(self, call: Any) -> Any:
        call = super().visit_call_(call)
        name = getattr(call.op, "name", "")
        if name not in ("relax.permute_dims", "relax.reshape") or not isinstance(call.args[0], GenericConst):
            return call
        array = call.args[0].value.numpy()
        if name == "relax.reshape":
            moved = array.reshape([int(length) for length in call.args[1].values])
        else:
            moved = array.transpose(call.attrs.axes and [int(axis) for axis in call.attrs.axes])
        return relax.const(np.ascontiguousarray(moved), str(array.dtype))


def _moved_constants(module: Any) -> Any:
    module["main"] = _Moved(module).visit_expr(module["main"])
    return module


@expr_functor.mutator
class _Clips(PyExprMutator):  # type: ignore[misc]
    """Clip, which the importer writes as loops over the layout that the file has, as a maximum and a minimum with one
    number; these take any layout, which TVM's own clip does not.
    """

    def visit_call_(self, call: Any) -> Any:
        call = super().visit_call_(call)
        name = getattr(call.op, "name", "")
        if name == "relax.clip":
            data, low, high = call.args
            kind = str(data.ty.dtype)
            below = self.builder_.emit(relax.op.maximum(data, relax.const(_number(low), kind)))
            return relax.op.minimum(below, relax.const(_number(high), kind))
        if name == "relax.call_tir" and len(call.args[1]) == 2:
            operator = LOOPS.get(call.args[0].name_hint.rstrip("0123456789_"))
            data, bound = call.args[1]
            if operator is not None and isinstance(bound, GenericConst) and bound.value.numpy().size == 1:
                return operator(data, bound)
        return call


def _clips_as_operators(module: Any) -> Any:
    module["main"] = _Clips(module).visit_expr(module["main"])
    return module


def _number(expression: Any) -> float:
    """What an operator was given as a number."""
    inner = getattr(expression, "value", expression)
    return float(getattr(inner, "value", inner))


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
