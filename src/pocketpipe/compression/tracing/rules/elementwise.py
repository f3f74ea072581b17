"""Elementwise operators: elements at the same place go together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from pocketpipe.compression.tracing.activations import Activation
from pocketpipe.compression.tracing.rules.registry import rule
from pocketpipe.compression.tracing.walking import Walk, describe, inputs_of, shape_of, unlabelled


@rule(
    "add", "hardswish", "log_sigmoid", "dropout", "feature_dropout", "to", "_to_copy", "type_as", "contiguous", "clone"
)
@rule("rsub", "detach", "alias", "lift_fresh_copy", "dropout_", "hardswish_", "alpha_dropout", "feature_alpha_dropout")
@rule("multiply", "subtract", "divide", "true_divide", "absolute", "negative", "where", "masked_fill")
def pointwise(walk: Walk, node: fx.Node) -> Any:
    """Elements at the same place go together."""
    values = inputs_of(walk, node)
    if not values:
        return unlabelled(node)
    if len(values) == 1 and values[0].shape == shape_of(node):
        return values[0]
    return joined(walk, node, values, shape_of(node))


def joined(walk: Walk, node: fx.Node, values: Sequence[Activation], shape: tuple[int, ...]) -> Activation:
    """Tensors that are broadcast to `shape` and combined: their channels at the same index are one."""
    labelled = [value for value in values if value.labels is not None]
    if not labelled:
        return _joined_without_labels(walk, node, values, shape)
    dims = {value.dim - len(value.shape) for value in labelled}
    if len(dims) > 1:
        walk.keep(labelled, f"{describe(node)}: channels along different axes meet")
        return Activation(shape, origin=describe(node))
    (from_end,) = dims
    first = labelled[0]
    labels = first.labels
    assert labels is not None
    for value in values:
        dim = from_end + len(value.shape)
        if value.parameter is not None:
            walk.keep_axes(value, (other for other in range(len(value.shape)) if other != dim), describe(node))
        if value is first or dim < 0 or value.shape[dim] == 1:
            continue
        own = walk.along(value, dim)
        fixed_in_first = own is not None and bool((own >= 0).all())
        walk.meet(labels, replace(value, origin=first.origin) if fixed_in_first else value, dim)
        if own is not None:
            labels = torch.where(labels >= 0, labels, own)
    return Activation(shape, from_end + len(shape), labels, first.origin)


def _joined_without_labels(
    walk: Walk, node: fx.Node, values: Sequence[Activation], shape: tuple[int, ...]
) -> Activation:
    parameters = [value for value in values if value.parameter]
    if len(parameters) == len(values) and all(value.shape == shape for value in values):
        first, *others = parameters  # weight * mask and the like: still a weight, tied to its mask along every axis
        for other in others:
            for dim in range(len(shape)):
                walk.meet(walk.axis(first.parameter or "", shape, dim), other, dim)
        return first
    whole = next((value for value in values if value.shape == shape and not value.follows), values[0])
    walk.keep(parameters, whole.reason)
    return Activation(shape, origin=whole.origin, follows=all(value.follows for value in values))


@rule("zeros", "ones", "full", "empty", "zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones")
@rule("new_full", "arange", "scalar_tensor", "eye")
def made_in_code(walk: Walk, node: fx.Node) -> Any:
    """The code gives it a size of its own. Whether that follows the weights shows when a slim network is run."""
    return Activation(shape_of(node), origin=describe(node), follows=True)
