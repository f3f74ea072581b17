"""Convolutions in groups: groups stay equal, or go whole."""

from __future__ import annotations

from torch import Tensor, fx

from pocketpipe.compression.tracing.activations import Activation
from pocketpipe.compression.tracing.walking import Size, Walk, describe, module_paths


def in_groups(walk: Walk, node: fx.Node, x: Activation, weight: Activation, dim: int, groups: int) -> Tensor | None:
    """Labels of the output channels.

    Channel i of every group goes, or a group with all that it reads and makes, whichever is the finer choice.
    Depthwise, where a group is one channel, it goes with the channels that it makes.
    """
    why = _why(node, groups)
    own, made = walk.along(x, dim), walk.axis(weight.parameter or "", weight.shape, 0)
    match _way(walk, node, own, made, groups):
        case "groups":
            assert own is not None
            assert made is not None
            walk.labels.tie(_whole(walk, own, groups, why), _whole(walk, made, groups, why), why)
            walk.sizes.append(Size((module_paths(node) or [""])[-1], "groups", own.view(groups, -1)[:, 0]))
        case "inside":
            _meet_inside(walk, x, own, walk.axis(weight.parameter or "", weight.shape, 1), groups, why)
            _inside(walk, made, groups, why)
        case None:
            _keep(walk, (own,), why)
            _inside(walk, made, groups, why)
    return made


def transposed_in_groups(
    walk: Walk, node: fx.Node, x: Activation, weight: Activation, dim: int, groups: int
) -> Tensor | None:
    """Labels of the output channels: as `in_groups`, for a weight (in, out of one group, ...)."""
    why = _why(node, groups)
    own, each = walk.along(x, dim), weight.shape[1]
    rows, columns = (walk.axis(weight.parameter or "", weight.shape, axis) for axis in (0, 1))
    walk.meet(rows, x, dim)
    match _way(walk, node, own, rows, groups):
        case "groups":
            assert own is not None
            _keep(walk, (columns,), why)
            whole = _whole(walk, own, groups, why)
            walk.sizes.append(Size((module_paths(node) or [""])[-1], "groups", whole))
            return whole.repeat_interleave(each)
        case "inside":
            _inside(walk, own, groups, why)
        case None:
            _keep(walk, (own,), why)
    return None if columns is None else columns.repeat(groups)


def _way(walk: Walk, node: fx.Node, own: Tensor | None, made: Tensor | None, groups: int) -> str | None:
    """`inside` or `groups`; None if neither does for the input. Where one side must stay, the other can go inside."""
    if own is None or made is None:
        return "inside"
    each = len(own) // groups
    if each == 1:
        return "groups"
    return walk.choose(node, own, ["inside", "groups"] if each >= groups else ["groups", "inside"])


def _whole(walk: Walk, labels: Tensor, groups: int, why: str) -> Tensor:
    """Labels (groups,): all channels of a group as one."""
    return walk.labels.tie_rows(labels.view(groups, -1).t(), why)


def _inside(walk: Walk, labels: Tensor | None, groups: int, why: str) -> None:
    """Channel i of every group as one."""
    if labels is None:
        return
    if len(labels) == groups:
        walk.labels.freeze(labels, f"{why}, with one channel in each")
    else:
        walk.labels.tie_rows(labels.view(groups, -1), why)


def _meet_inside(walk: Walk, x: Activation, own: Tensor | None, columns: Tensor | None, groups: int, why: str) -> None:
    """Column i of the weight reads channel i of every group."""
    _inside(walk, own, groups, why)
    if columns is None or x.follows:
        return
    if own is None:
        walk.labels.freeze(columns, x.reason)
    else:
        walk.labels.tie(walk.labels.tie_rows(own.view(groups, -1), why), columns, x.reason)


def _keep(walk: Walk, lines: tuple[Tensor | None, ...], why: str) -> None:
    for labels in lines:
        if labels is not None:
            walk.labels.freeze(labels, why)


def _why(node: fx.Node, groups: int) -> str:
    return f"{describe(node)}: a convolution in {groups} groups"
