"""What the importer makes of an ONNX file, in forms that later passes take rightly: rewriting of Relax modules."""

from typing import Any

import numpy as np
from tvm import relax
from tvm.ir import GenericConst
from tvm.relax import PyExprMutator, expr_functor

LOOPS = {"maximum": relax.op.maximum, "minimum": relax.op.minimum}
"""What the importer calls functions of loops that compute what these do."""


def with_moved_constants(module: Any) -> Any:
    """Transposed and reshaped constants as constants."""
    return _rewritten(module, _Moved)


def with_axes_from_the_front(module: Any) -> Any:
    """Squeezes whose axes are counted from the front, and layer norms along one axis."""
    return _rewritten(module, _Front)


def with_clips_as_operators(module: Any) -> Any:
    """Clips as a maximum and a minimum with one number."""
    return _rewritten(module, _Clips)


def _rewritten(module: Any, mutator: Any) -> Any:
    module["main"] = mutator(module).visit_expr(module["main"])
    return module


@expr_functor.mutator
class _Moved(PyExprMutator):  # type: ignore[misc]
    """TVM folds them too, but compiles a program for each, which takes longer than all the rest."""

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


@expr_functor.mutator
class _Front(PyExprMutator):  # type: ignore[misc]
    """The change of layout fails on an axis that is counted from the end, and leaves a layer norm's factors as they lie
    where it turns the axes that they belong to.
    """

    def visit_call_(self, call: Any) -> Any:
        call = super().visit_call_(call)
        name = getattr(call.op, "name", "")
        if name == "relax.squeeze" and call.attrs.axis is not None:
            rank = len(call.args[0].ty.shape)
            return relax.op.squeeze(call.args[0], [int(axis) % rank for axis in call.attrs.axis])
        if name == "relax.nn.layer_norm" and len(call.attrs.axes) > 1:
            return self._along_one_axis(call)
        return call

    def _along_one_axis(self, call: Any) -> Any:
        data, *factors = call.args
        shape = [int(length) for length in data.ty.shape]
        before = len(shape) - len(call.attrs.axes)
        rows = self.builder_.emit(relax.op.reshape(data, [*shape[:before], -1]))
        flat = [relax.const(factor.value.numpy().reshape(-1)) for factor in factors]
        made = relax.op.nn.layer_norm(rows, *flat, axes=[before], epsilon=call.attrs.epsilon)
        return relax.op.reshape(self.builder_.emit(made), shape)


@expr_functor.mutator
class _Clips(PyExprMutator):  # type: ignore[misc]
    """The importer writes clips as loops over the layout that the file has; these take any layout, which TVM's own clip
    does not.
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


def _number(expression: Any) -> float:
    """What an operator was given as a number."""
    inner = getattr(expression, "value", expression)
    return float(getattr(inner, "value", inner))
