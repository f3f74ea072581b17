"""Operators that only move elements. They are not described: they are run on labels instead of numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from pocketpipe.compression.activations import Activation, gathered
from pocketpipe.compression.rules.elementwise import joined, made_in_code
from pocketpipe.compression.rules.registry import rule, unknown
from pocketpipe.compression.walking import Walk, arguments, describe, fixed, operator_name, shape_of, unlabelled


@rule("pad", "constant_pad_nd")
def pad(walk: Walk, node: fx.Node) -> Any:
    """Around the channels it adds positions that no weight makes; in a module that adapts itself they may go."""
    given, x = arguments(node), walk.value(node.args[0])
    if x is None or x.labels is None:
        return unlabelled(node, x.origin if x else None)
    amounts, place = given["pad"], 2 * (len(x.shape) - 1 - x.dim)
    before, after = (*amounts, *[0] * 2 * len(x.shape))[place : place + 2]
    if before < 0 or after < 0:
        walk.keep([x], f"{describe(node)}: cuts off channels")
        return unlabelled(node)
    added = [walk.labels.fresh(n) if walk.adapts(node) else fixed(n) for n in (before, after)]
    labels = torch.cat([added[0], x.labels, added[1]])
    reason = f"{describe(node)}: adds {before} + {after} channels, numbers that are fixed in the code"
    origin = reason if before or after else x.origin
    return Activation(shape_of(node), x.dim, labels, origin)


@rule("cat", "concat")
def concatenate(walk: Walk, node: fx.Node) -> Any:
    """Along channels: one after the other. Along another axis: channels at the same index are one."""
    given = arguments(node)
    values = [value for value in (walk.value(tensor) for tensor in given["tensors"]) if value is not None]
    shape, dim = shape_of(node), given["dim"] % len(shape_of(node))
    labelled = [value for value in values if value.labels is not None]
    if not labelled:
        return unlabelled(node)
    if all(value.dim != dim for value in labelled):
        return joined(walk, node, values, shape)
    if any(value.dim != dim for value in labelled):
        walk.keep(labelled, f"{describe(node)}: channels along different axes meet")
        return unlabelled(node)
    lines = [value.labels if value.labels is not None else fixed(value.shape[dim]) for value in values]
    fixed_one = next((value for value in values if value.labels is None), labelled[0])
    return Activation(shape, dim, torch.cat(lines), fixed_one.origin)


@rule("stack")
def stack(walk: Walk, node: fx.Node) -> Any:
    """Channels at the same index are one."""
    given = arguments(node)
    values = [value for value in (walk.value(tensor) for tensor in given["tensors"]) if value is not None]
    together = joined(walk, node, values, values[0].shape)
    if together.labels is None:
        return unlabelled(node)
    dim = together.dim + (given["dim"] % len(shape_of(node)) <= together.dim)
    return Activation(shape_of(node), dim, together.labels, together.origin)


@rule("permute", "transpose", "t", "movedim", "swapaxes", "squeeze", "unsqueeze", "expand", "expand_as", "flip")
@rule("view", "reshape", "_unsafe_view", "flatten", "unflatten", "view_as", "reshape_as")
def rearrangement(walk: Walk, node: fx.Node) -> Any:
    """Channels come to lie elsewhere, or next to each other: the code takes the sizes from the tensor."""
    return _run_on_labels(walk, node, may_choose=True)


@rule("slice", "select", "narrow", "split", "split_with_sizes", "chunk", "unbind", "tensor_split", "roll", "repeat")
@rule("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "index_select", "unfold", "as_strided", "tile")
def selection(walk: Walk, node: fx.Node) -> Any:
    """Free to act on other axes; on channels its numbers are fixed in the code, so these stay."""
    return _run_on_labels(walk, node, may_choose=walk.adapts(node))


def _run_on_labels(walk: Walk, node: fx.Node, may_choose: bool) -> Any:
    """Run the operator itself on labels and see where they come to lie."""
    x = walk.value(node.args[0])
    if x is None:
        return unknown(walk, node)
    x = _as_activation(walk, x)
    if x.labels is None:
        return made_in_code(walk, node) if x.follows else unlabelled(node, x.origin)
    others = (_in_place_of(walk, argument) for argument in node.args[1:])
    spread = node.target(_runnable(node, x.spread()), *others, **node.kwargs)  # type: ignore[operator]
    reason = f"{describe(node)}: takes channels apart by numbers that are fixed in the code"
    results = []
    for output in [spread] if isinstance(spread, Tensor) else spread:
        found = gathered(output)
        if found is None or not (may_choose or torch.equal(found[1], x.labels)):
            walk.keep([x], reason)
        shape = tuple(output.shape)
        results.append(Activation(shape, origin=reason) if found is None else Activation(shape, *found, x.origin))
    return results[0] if isinstance(spread, Tensor) else results


def _runnable(node: fx.Node, spread: Tensor) -> Tensor:
    """The labels as the operator wants them: a view needs real memory, all others are spared the copy."""
    return spread.contiguous() if "view" in operator_name(node) else spread


def _in_place_of(walk: Walk, argument: Any) -> Any:
    """An argument for running the operator: of another tensor (`view_as`) only the shape matters."""
    value = walk.value(argument)
    return argument if value is None else torch.zeros(()).expand(value.shape)


def _as_activation(walk: Walk, value: Activation) -> Activation:
    """A parameter with one axis of more than one position is channels along that axis, whatever its shape becomes."""
    if value.parameter is None:
        return value
    wide = [dim for dim, length in enumerate(value.shape) if length > 1]
    labels = walk.along(value, wide[0]) if len(wide) == 1 else None
    return Activation(value.shape, wide[0] if labels is not None else 0, labels, value.origin)
