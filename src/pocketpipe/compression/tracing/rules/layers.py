"""Convolutions, linear layers and lookups: where channels are made and read."""

from __future__ import annotations

from math import prod
from typing import Any

from torch import Tensor, fx

from pocketpipe.compression.tracing.activations import Activation
from pocketpipe.compression.tracing.rules.grouped import in_groups, transposed_in_groups
from pocketpipe.compression.tracing.rules.registry import rule, unknown
from pocketpipe.compression.tracing.walking import (
    LayerCall,
    Length,
    ProductCall,
    Walk,
    arguments,
    describe,
    inputs_of,
    module_paths,
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
        return _with_computed_weight(walk, node, given["weight"])
    transposed = "transpose" in operator_name(node)
    dim, groups = len(x.shape) - len(weight.shape) + 1, given["groups"]
    out_axis, in_axis = (1, 0) if transposed else (0, 1)
    if x.labels is not None and x.dim != dim:
        walk.keep([x], f"{describe(node)}: slides along the axis that carries channels")
    if groups == 1:
        made = walk.axis(weight.parameter, weight.shape, out_axis)
        walk.meet(walk.axis(weight.parameter, weight.shape, in_axis), x, dim)
    else:
        made = (transposed_in_groups if transposed else in_groups)(walk, node, x, weight, dim, groups)
    positions = _beside_channels(x.shape if transposed else shape_of(node), dim)
    call = called(walk, node, operator_name(node).removeprefix("aten."), weight, out_axis, positions)
    return made_by(walk, call, dim, made)


def _with_computed_weight(walk: Walk, node: fx.Node, weight: fx.Node) -> Any:
    """A weight that the code makes of others, as a standardized one: all that it reads stays. It costs MACs as ever."""
    reason = f"{describe(node)}: its weight is computed, not stored"
    walk.keep(inputs_of(walk, node), reason)
    result, kernel = shape_of(node), shape_of(weight)
    transposed = "transpose" in operator_name(node)
    slid_over = shape_of(arguments(node)["input"]) if transposed else result
    positions = _beside_channels(slid_over, len(slid_over) - len(kernel) + 1)
    name = ".".join([*module_paths(node)[-1:], node.name]).strip(".")
    walk.products.append(ProductCall(name, ((positions * prod(kernel), None),), result[1:], node))
    return unlabelled(node, reason)


def _beside_channels(shape: tuple[int, ...], dim: int) -> int:
    """Positions along all axes but `dim`; in front of it lie frames or windows that code folds into the batch."""
    return prod(shape[:dim]) * prod(shape[dim + 1 :])


def product_with_weight(
    walk: Walk, node: fx.Node, x: Activation | None, weight: Activation | None, out_axis: int
) -> Any:
    """(..., in) times a matrix of weights."""
    if x is None or weight is None or weight.parameter is None:
        return unknown(walk, node)
    dim = len(x.shape) - 1
    walk.meet(walk.axis(weight.parameter, weight.shape, 1 - out_axis), x, dim)
    made = walk.axis(weight.parameter, weight.shape, out_axis)
    shape = shape_of(node)
    if x.labels is None or x.dim == dim or walk.labels.all_frozen(x.labels):
        return made_by(walk, called(walk, node, "linear", weight, out_axis, prod(shape[:-1])), dim, made)
    if made is not None:
        walk.labels.freeze(made, f"{describe(node)}: another axis of its result carries channels already")
    along: Length = (x.shape[x.dim], x.labels)
    positions = prod(shape[:-1]) // x.shape[x.dim]
    made_by(walk, called(walk, node, "linear", weight, out_axis, positions, over=(along,)), dim, made)
    return Activation(shape, x.dim, x.labels, x.origin)


def called(
    walk: Walk,
    node: fx.Node,
    operator: str,
    weight: Activation,
    out_axis: int,
    positions: int,
    over: tuple[Length, ...] = (),
) -> LayerCall:
    """Note that a weight is used."""
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
        over=over,
    )
    walk.calls.append(call)
    return call


def made_by(walk: Walk, call: LayerCall, dim: int, made: Tensor | None) -> Activation:
    """The layer's output; its bias goes with the output channels."""
    shape = shape_of(call.node)
    if made is not None and call.bias is not None:
        walk.labels.tie(walk.labels.of((call.bias, 0), shape[dim]), made, call.weight)
    return Activation(shape, dim, made, describe(call.node))


@rule("embedding")
def embedding(walk: Walk, node: fx.Node) -> Any:
    """Axis 1 of the table makes the last axis of the output."""
    table, shape = walk.value(arguments(node)["weight"]), shape_of(node)
    if table is None or table.parameter is None:
        return unknown(walk, node)
    return Activation(shape, len(shape) - 1, walk.axis(table.parameter, table.shape, 1), describe(node))


@rule("index")
def looked_up(walk: Walk, node: fx.Node) -> Any:
    """Rows of a table by their number, as for a bias of relative positions: axis 1 makes the last axis.

    The table may be computed by layers (Swin-v2): then its columns are what these make.
    """
    given, shape = arguments(node), shape_of(node)
    table = walk.value(given["self"])
    by_rows = len(given["indices"]) == 1 and (index := walk.value(given["indices"][0])) and index.labels is None
    if table is None or len(table.shape) != 2 or not by_rows:
        return unknown(walk, node)
    if table.parameter is None:
        if table.dim == 0:
            walk.keep([table], f"{describe(node)}: picks rows of the axis that carries channels")
            return unlabelled(node, table.origin)
        return Activation(shape, len(shape) - 1, table.labels, table.origin)
    walk.keep_axes(table, [0], describe(node))
    return Activation(shape, len(shape) - 1, walk.axis(table.parameter, table.shape, 1), describe(node))
