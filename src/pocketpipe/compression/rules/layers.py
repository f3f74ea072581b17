"""Convolutions, products with matrices and lookups: where channels are made and read."""

from __future__ import annotations

from math import prod
from typing import Any

from torch import Tensor, fx

from pocketpipe.compression.activations import Activation
from pocketpipe.compression.rules.registry import rule, unknown
from pocketpipe.compression.walking import (
    LayerCall,
    Walk,
    arguments,
    describe,
    operator_name,
    shape_of,
    unlabelled,
)


@rule("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def convolution(walk: Walk, node: fx.Node) -> Any:
    """Output channels are an axis of the weight; input channels meet the other one."""
    given = arguments(node)
    x, weight = walk.value(given["input"]), walk.value(given["weight"])
    if x is None or weight is None or weight.parameter is None:
        return unknown(walk, node)
    transposed = "transpose" in operator_name(node)
    dim, groups = len(x.shape) - len(weight.shape) + 1, given["groups"]
    out_axis, in_axis = (1, 0) if transposed else (0, 1)
    if groups == 1:
        made = walk.axis(weight.parameter, weight.shape, out_axis)
        walk.meet(walk.axis(weight.parameter, weight.shape, in_axis), x, dim)
    elif groups == x.shape[dim] and not transposed:
        made = _depthwise(walk, x, weight, dim)
    else:
        walk.keep([x], f"{describe(node)}: a convolution in {groups} groups")
        made = None
    if x.labels is not None and x.dim != dim:
        walk.keep([x], f"{describe(node)}: slides along the axis that carries channels")
    positions = prod(x.shape[dim + 1 :]) if transposed else prod(shape_of(node)[dim + 1 :])
    operator = operator_name(node).removeprefix("aten.")
    call = _called(walk, node, operator, weight, out_axis, positions)
    return _made_by(walk, call, dim, made, groups)


def _depthwise(walk: Walk, x: Activation, weight: Activation, dim: int) -> Tensor | None:
    """Each input channel makes the same number of output channels, and goes with them."""
    made = walk.axis(weight.parameter or "", weight.shape, 0)
    own = walk.along(x, dim)
    if own is not None and made is not None:
        walk.labels.tie(own.repeat_interleave(weight.shape[0] // x.shape[dim]), made, x.origin)
    else:
        walk.meet(made, x, dim)
    return made


@rule("linear")
def linear(walk: Walk, node: fx.Node) -> Any:
    """The last axis of the input meets axis 1 of the weight; axis 0 makes the output."""
    given = arguments(node)
    return _product(walk, node, walk.value(given["input"]), walk.value(given["weight"]), out_axis=0)


@rule("matmul", "mm", "bmm")
def matmul(walk: Walk, node: fx.Node) -> Any:
    """With a matrix of weights it is a layer; between activations the summed axes go together."""
    left, right = (walk.value(argument) for argument in node.args[:2])
    if left is None or right is None or left.parameter or min(len(left.shape), len(right.shape)) < 2:
        return unknown(walk, node)
    if right.parameter and len(right.shape) == 2:
        return _product(walk, node, left, right, out_axis=1)
    last, rows = len(left.shape) - 1, len(right.shape) - 2
    walk.meet(walk.along(left, last), right, rows)
    walk.meet(walk.along(right, rows), left, last)
    carried = _carried(node, left, right)
    lost = [
        value
        for value, summed in ((left, last), (right, rows))
        if value.labels is not None and value.dim != summed and (carried is None or carried.labels is not value.labels)
    ]
    walk.keep(lost, f"{describe(node)}: a product over an axis that carries channels")
    return carried or unlabelled(node)


def _carried(node: fx.Node, left: Activation, right: Activation) -> Activation | None:
    """The product of two activations with the channels of one of them: rows of the left, or columns of the right."""
    shape = shape_of(node)
    if right.labels is not None and right.dim == len(right.shape) - 1:
        return Activation(shape, len(shape) - 1, right.labels, right.origin)
    if left.labels is not None and left.dim == len(left.shape) - 2:
        return Activation(shape, len(shape) - 2, left.labels, left.origin)
    return None


def _product(walk: Walk, node: fx.Node, x: Activation | None, weight: Activation | None, out_axis: int) -> Any:
    """(..., in) times a matrix of weights."""
    if x is None or weight is None or weight.parameter is None:
        return unknown(walk, node)
    dim = len(x.shape) - 1
    walk.meet(walk.axis(weight.parameter, weight.shape, 1 - out_axis), x, dim)
    call = _called(walk, node, "linear", weight, out_axis, prod(shape_of(node)[:-1]))
    made = walk.axis(weight.parameter, weight.shape, out_axis)
    if x.labels is not None and x.dim != dim:
        if made is not None:
            walk.labels.freeze(made, f"{describe(node)}: another axis of its result carries channels already")
        _made_by(walk, call, dim, made, 1)
        return Activation(shape_of(node), x.dim, x.labels, x.origin)
    return _made_by(walk, call, dim, made, 1)


def _called(walk: Walk, node: fx.Node, operator: str, weight: Activation, out_axis: int, positions: int) -> LayerCall:
    bias = walk.value(arguments(node).get("bias"))
    call = LayerCall(
        operator=operator,
        weight=weight.parameter or "",
        weight_shape=weight.shape,
        bias=bias.parameter if bias else None,
        out_axis=out_axis,
        positions=positions,
        output_shape=shape_of(node)[1:],
        node=node,
    )
    walk.calls.append(call)
    return call


def _made_by(walk: Walk, call: LayerCall, dim: int, made: Tensor | None, groups: int) -> Activation:
    """The layer's output; its bias goes with the output channels."""
    shape = shape_of(call.node)
    if made is not None and call.bias is not None:
        walk.labels.tie(walk.labels.of((call.bias, 0), shape[dim]), made, call.weight)
    why = f"{describe(call.node)}: a convolution in {groups} groups" if groups > 1 else describe(call.node)
    return Activation(shape, dim, made, why)


@rule("embedding")
def embedding(walk: Walk, node: fx.Node) -> Any:
    """Axis 1 of the table makes the last axis of the output."""
    table, shape = walk.value(arguments(node)["weight"]), shape_of(node)
    if table is None or table.parameter is None:
        return unknown(walk, node)
    return Activation(shape, len(shape) - 1, walk.axis(table.parameter, table.shape, 1), describe(node))
