"""Normalization, pooling and reductions: what treats each channel by itself, and what mixes them."""

from __future__ import annotations

import re
from collections.abc import Callable
from math import prod
from typing import Any

from torch import Tensor, fx

from pocketpipe.compression.tracing.activations import Activation
from pocketpipe.compression.tracing.rules.elementwise import pointwise
from pocketpipe.compression.tracing.rules.registry import rule, unknown
from pocketpipe.compression.tracing.walking import (
    Size,
    Walk,
    arguments,
    describe,
    module_paths,
    operator_name,
    unlabelled,
)


@rule("batch_norm", "instance_norm")
def channel_norm(walk: Walk, node: fx.Node) -> Any:
    """Each channel by itself, with vectors that go with it; the export folds a BatchNorm into the layer before it."""
    given = arguments(node)
    x = walk.value(given["input"])
    if x is None:
        return unknown(walk, node)
    vectors = [walk.value(given[name]) for name in ("weight", "bias", "running_mean", "running_var")]
    parameters = [vector.parameter for vector in vectors if vector is not None and vector.parameter]
    for parameter in parameters:
        walk.meet(walk.axis(parameter, (x.shape[1],), 0), x, 1)
    if x.labels is not None and x.dim != 1:
        walk.keep([x], f"{describe(node)}: normalizes over the axis that carries channels")
    _fold(walk, node, tuple(parameters))
    return x


def _fold(walk: Walk, node: fx.Node, parameters: tuple[str, ...]) -> None:
    """Remember a BatchNorm that follows a layer directly, if nothing else reads that layer."""
    before = node.args[0]
    call = next((call for call in walk.calls if call.node is before), None)
    if call is None or operator_name(node) != "aten.batch_norm" or len(call.node.users) > 1:
        return
    used_once = sum(other.weight == call.weight for other in walk.calls) == 1
    if used_once and (call.operator != "linear" or len(call.output_shape) == 1):
        walk.folded_into[call.weight] = parameters


@rule("layer_norm", "rms_norm", "softmax", "_softmax", "log_softmax", "_log_softmax", "cumsum")
def mixing(walk: Walk, node: fx.Node) -> Any:
    """Every output along some axes depends on all inputs along them: if these are channels, they stay."""
    given = arguments(node)
    x = walk.value(node.args[0])
    if x is None:
        return unknown(walk, node)
    if "normalized_shape" in given:
        mixed = set(range(len(x.shape) - len(given["normalized_shape"]), len(x.shape)))
    else:
        mixed = {given["dim"] % len(x.shape)}
    if x.labels is not None and x.dim in mixed:
        walk.keep([x], f"{describe(node)}: each of its outputs depends on all channels")
    return x


@rule("group_norm")
def group_norm(walk: Walk, node: fx.Node) -> Any:
    """A group of channels has its own statistics: groups go whole, and all others compute what they did."""
    given = arguments(node)
    x, groups = walk.value(given["input"]), given["num_groups"]
    if x is None:
        return unknown(walk, node)
    found = (walk.value(given[name]) for name in ("weight", "bias"))
    vectors = [vector for vector in found if vector is not None and vector.parameter]
    if x.labels is None or x.dim != 1 or groups == 1:
        walk.keep([x, *vectors], f"{describe(node)}: each of its outputs depends on all channels")
        return x
    for vector in vectors:
        walk.meet(walk.axis(vector.parameter or "", vector.shape, 0), x, 1)
    why = f"{describe(node)}: normalizes in {groups} groups"
    whole = walk.labels.tie_rows(x.labels.view(groups, -1).t(), why)
    walk.sizes.append(Size((module_paths(node) or [""])[-1], "num_groups", whole))
    return x


@rule("mean", "sum", "amax", "amin", "max", "min", "var", "std", "prod", "logsumexp", "argmax", "any", "all")
@rule("linalg_vector_norm")
def reduction(walk: Walk, node: fx.Node) -> Any:
    """Channels stay if they are summed over; else they go through, at their new place."""
    given = arguments(node)
    if "other" in given:  # the elementwise max(a, b) and min(a, b)
        return pointwise(walk, node)
    x = walk.value(node.args[0])
    if x is None or x.labels is None:
        return unlabelled(node, x.origin if x else None)
    dims = given.get("dim")
    listed = range(len(x.shape)) if dims is None else [dims] if isinstance(dims, int) else dims or range(len(x.shape))
    reduced = {dim % len(x.shape) for dim in listed}
    if x.dim in reduced:
        walk.keep([x], f"{describe(node)}: reduces over the channels")
        return unlabelled(node)
    dim = x.dim if given.get("keepdim") else x.dim - sum(other < x.dim for other in reduced)
    return _like(node, lambda shape: Activation(shape, dim, x.labels, x.origin))


@rule("max_pool1d", "avg_pool1d", "adaptive_max_pool1d", "adaptive_avg_pool1d", "upsample_linear1d")
@rule("max_pool2d", "avg_pool2d", "adaptive_max_pool2d", "adaptive_avg_pool2d", "max_pool2d_with_indices")
@rule("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_bilinear2d", "upsample_bicubic2d")
@rule("upsample_trilinear3d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa")
@rule("_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "_upsample_nearest_exact3d")
@rule("max_pool3d", "avg_pool3d", "adaptive_max_pool3d", "adaptive_avg_pool3d")
def windowed(walk: Walk, node: fx.Node) -> Any:
    """Pooling and resampling: each channel by itself, over the last one, two or three axes."""
    x = walk.value(node.args[0])
    if x is None:
        return unknown(walk, node)
    window = int(re.findall(r"([123])d", operator_name(node))[0])
    if x.labels is not None and x.dim >= len(x.shape) - window:
        walk.keep([x], f"{describe(node)}: slides along the axis that carries channels")
        return unlabelled(node)
    return _like(node, lambda shape: Activation(shape, x.dim, x.labels, x.origin))


def _like(node: fx.Node, make: Callable[[tuple[int, ...]], Activation]) -> Any:
    made = node.meta["val"]
    return make(tuple(made.shape)) if isinstance(made, Tensor) else [make(tuple(each.shape)) for each in made]


@rule("prelu")
def prelu(walk: Walk, node: fx.Node) -> Any:
    """One slope for each channel (axis 1), or one for all."""
    x, slope = (walk.value(argument) for argument in node.args)
    if x is None or slope is None:
        return unknown(walk, node)
    if slope.parameter and prod(slope.shape) > 1:
        walk.meet(walk.axis(slope.parameter, slope.shape, 0), x, 1)
    return x
