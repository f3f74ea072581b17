"""Operators that only move elements. They are not described: they are run on labels instead of numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from pocketpipe.compression.tracing.activations import Activation, gathered, lines, varying
from pocketpipe.compression.tracing.rules.elementwise import joined, made_in_code
from pocketpipe.compression.tracing.rules.registry import ELEMENTWISE, RULES, rule, rule_for, unknown
from pocketpipe.compression.tracing.walking import Walk, arguments, describe, fixed, operator_name, shape_of, unlabelled

PRODUCTS = frozenset({"matmul", "bmm", "baddbmm", "einsum", "scaled_dot_product_attention"})
MOVES = frozenset({
    "permute", "transpose", "mT", "movedim", "moveaxis", "swapaxes", "swapdims", "view", "reshape", "ravel", "flatten",
    "unflatten", "select", "unbind", "getitem", "chunk", "split", "split_with_sizes", "narrow", "slice", "squeeze",
    "unsqueeze", "contiguous", "clone", "expand", "repeat_interleave", "cat", "stack", "layer_norm", "rms_norm",
})  # fmt: skip
"""What may lie, beside pointwise operators, between the place where heads are taken apart and the product of each."""


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


@rule("cat", "concat", "concatenate")
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
    parts = [value.labels if value.labels is not None else fixed(value.shape[dim]) for value in values]
    fixed_one = next((value for value in values if value.labels is None), labelled[0])
    return Activation(shape, dim, torch.cat(parts), fixed_one.origin)


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


@rule("permute", "transpose", "t", "mT", "numpy_T", "matrix_H", "movedim", "moveaxis", "swapaxes", "swapdims", "flip")
@rule("squeeze", "unsqueeze", "expand", "expand_as")
@rule("view", "reshape", "_unsafe_view", "flatten", "ravel", "unflatten", "view_as", "reshape_as")
def rearrangement(walk: Walk, node: fx.Node) -> Any:
    """Channels come to lie elsewhere, or next to each other, or along several axes: heads and their width."""
    x = walk.value(node.args[0])
    if x is None or _as_activation(walk, x).labels is None:
        return _without_labels(walk, node, x)
    x = _as_activation(walk, x)
    (moved,) = _run_on_labels(walk, node, x.spread())
    dims = varying(moved)
    if len(dims) == 1:
        return Activation(tuple(moved.shape), dims[0], lines(moved, dims).clone(), x.origin)
    return _along_one(walk, node, x, moved, _in_order_of_trial(node, moved.shape, dims))


@rule("pixel_shuffle")
def pixel_shuffle(walk: Walk, node: fx.Node) -> Any:
    """The channels that make the pixels of one output channel go together."""
    x = walk.value(node.args[0])
    if x is None or x.labels is None:
        return _without_labels(walk, node, x)
    (moved,) = _run_on_labels(walk, node, x.spread())
    channel = len(x.shape) - 3
    if moved.shape[channel] == 1:
        walk.keep([x], f"{describe(node)}: makes one channel of all")
        return unlabelled(node)
    return _along_one(walk, node, x, moved, [channel] if x.dim == channel else [])


def _along_one(walk: Walk, node: fx.Node, x: Activation, moved: Tensor, dims: list[int]) -> Any:
    """Channels that lie along several axes: one axis gets shorter, so what lies across it goes together.

    Which one is for the code to say, that has numbers in it or takes them from tensors.
    """
    labels = x.labels
    assert labels is not None
    chosen = None if walk.adapts(node) or not dims else walk.choose(node, labels, dims)
    if chosen is None:
        walk.keep([x], walk.in_vain(node))
        return unlabelled(node, walk.in_vain(node))
    across = lines(moved, varying(moved))
    rows = across.movedim(varying(moved).index(chosen), -1).flatten(0, -2)
    return Activation(tuple(moved.shape), chosen, walk.labels.tie_rows(rows, x.reason).clone(), x.origin)


def _in_order_of_trial(node: fx.Node, shape: torch.Size, dims: list[int]) -> list[int]:
    """Where heads are taken apart, first whole heads, then their width. Else the longest axis: the finest choice."""
    if len(dims) > 1 and _is_multiplied(node):
        return [dims[-2], dims[-1], *dims[:-2]]
    return sorted(dims, key=lambda dim: -shape[dim])


def _is_multiplied(node: fx.Node) -> bool:
    """Whether what `node` makes goes, moved around, into a product of activations."""
    seen, ahead = {node}, [node]
    while ahead:
        for user in set(ahead.pop().users) - seen:
            name = operator_name(user).removeprefix("aten.")
            if name in PRODUCTS:
                return True
            if name in MOVES or rule_for(user) is RULES[ELEMENTWISE]:
                seen.add(user)
                ahead.append(user)
    return False


@rule("slice", "select", "narrow", "split", "split_with_sizes", "chunk", "unbind", "tensor_split", "roll", "repeat")
@rule("pixel_unshuffle", "repeat_interleave", "unfold", "as_strided", "tile")
def selection(walk: Walk, node: fx.Node) -> Any:
    """Takes channels apart, or lays some of them down twice. Equal parts stay equal: their channels go together."""
    x = walk.value(node.args[0])
    if x is None or _as_activation(walk, x).labels is None:
        return _without_labels(walk, node, x)
    x = _as_activation(walk, x)
    assert x.labels is not None
    moved = _run_on_labels(walk, node, x.spread())
    found = [gathered(part) for part in moved]
    if any(part is None for part in found):
        walk.keep([x], f"{describe(node)}: takes channels apart by numbers that are fixed in the code")
        return unlabelled(node)
    if not walk.adapts(node) and any(not torch.equal(part[1], x.labels) for part in found if part is not None):
        _part(walk, node, x)
    results = [Activation(tuple(part.shape), *at, x.origin) for part, at in zip(moved, found, strict=True) if at]
    return results[0] if isinstance(node.meta["val"], Tensor) else results


def _part(walk: Walk, node: fx.Node, x: Activation) -> None:
    """Tie equal parts, if it takes such; else leave them free, in the hope that the code knows their lengths."""
    assert x.labels is not None
    indices = [gathered(part) for part in _run_on_labels(walk, node, _spread_indices(x))]
    length = len(indices[0][1]) if indices[0] else 0
    in_step = [at is not None and _is_whole_part(at[1], length) for at in indices]
    in_equal_parts = all(in_step) and len(x.labels) % max(length, 1) == 0
    match walk.choose(node, x.labels, ["equal", "free"] if in_equal_parts else ["free"], parts=True):
        case "equal":
            walk.labels.tie_rows(x.labels.view(-1, length), x.reason)
        case None:
            walk.keep([x], walk.in_vain(node))


def _is_whole_part(indices: Tensor, length: int) -> bool:
    """Whether these are the positions of one of the parts of `length` into which an axis is cut."""
    start = int(indices[0])
    return len(indices) == length and start % length == 0 and torch.equal(indices, torch.arange(start, start + length))


def _spread_indices(x: Activation) -> Tensor:
    return Activation(x.shape, x.dim, torch.arange(x.shape[x.dim])).spread()


@rule("channel_shuffle")
def channel_shuffle(walk: Walk, node: fx.Node) -> Any:
    """Deals out the channels of each group in turn; groups stay equal."""
    given, x = arguments(node), walk.value(node.args[0])
    if x is None or x.labels is None:
        return _without_labels(walk, node, x)
    if x.dim != 1:
        return x
    walk.labels.tie_rows(x.labels.view(given["groups"], -1), x.reason)
    return Activation(x.shape, 1, x.labels.view(given["groups"], -1).t().flatten(), x.origin)


@rule("glu")
def glu(walk: Walk, node: fx.Node) -> Any:
    """The second half gates the first: halves go together."""
    given, x = arguments(node), walk.value(node.args[0])
    if x is None or x.labels is None or x.dim != given["dim"] % len(x.shape):
        return Activation(shape_of(node), x.dim, x.labels, x.origin) if x and x.labels is not None else unlabelled(node)
    return Activation(shape_of(node), x.dim, walk.labels.tie_rows(x.labels.view(2, -1), x.reason), x.origin)


def _without_labels(walk: Walk, node: fx.Node, x: Activation | None) -> Any:
    if x is None:
        return unknown(walk, node)
    if x.parameter is not None:
        reason = f"{describe(node)}: takes a weight apart"
        walk.keep([x], reason)
        return unlabelled(node, reason)
    return made_in_code(walk, node) if x.follows else unlabelled(node, x.origin)


def _run_on_labels(walk: Walk, node: fx.Node, spread: Tensor) -> list[Tensor]:
    """Run the operator itself on labels and see where they come to lie: its outputs."""
    others = (_in_place_of(walk, argument) for argument in node.args[1:])
    if "view" in operator_name(node) or "strided" in operator_name(node):
        spread = spread.contiguous()  # a view needs real memory, all others are spared the copy
    made = node.target(spread, *others, **node.kwargs)  # type: ignore[operator]
    return [made] if isinstance(made, Tensor) else list(made)


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
