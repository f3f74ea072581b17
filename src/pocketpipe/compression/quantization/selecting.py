"""Reading one step of a sequence where it is made, not from a tensor of all steps: no grid of theirs lies between."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from pocketpipe.compression.quantization.operators import operator_of
from pocketpipe.compression.quantization.symbolic import EXAMPLE

_SWAPS = ("transpose", "swapaxes", "swapdims")


def select_early(graph: fx.Graph) -> dict[fx.Node, fx.Node]:
    """Let what takes one position of a stack, or of a tensor with its axes in another order, take it before that.

    Returns what stands for each node that did so.

    A recurrent network stacks its outputs and reads the last; where steps come first, it moves the batch to and fro.
    """
    moved: dict[fx.Node, fx.Node] = {}
    while found := _taken_earlier(graph):
        moved |= found
    for node in reversed(graph.nodes):
        if not node.users and operator_of(node) in ("stack", "permute", "unbind", *_SWAPS):
            graph.erase_node(node)
    return {node: _at_last(moved, node) for node in moved}


def _at_last(moved: Mapping[fx.Node, fx.Node], node: fx.Node) -> fx.Node:
    while node in moved:
        node = moved[node]
    return node


def _taken_earlier(graph: fx.Graph) -> dict[fx.Node, fx.Node]:
    """One round: the nodes that are gone now, each with what stands for it."""
    moved: dict[fx.Node, fx.Node] = {}
    for node in list(graph.nodes):
        found = _selection(node)
        if found is None:
            continue
        source, axis, position = found
        with graph.inserting_before(node):
            made = _from_stack(source, axis, position) or _from_turned(graph, source, axis, position)
            if made is None:
                continue
            rest = _rest_of_index(node, axis)
            if rest is not None:
                made = _noted(graph.call_function(operator.getitem, (made, rest)), node.meta[EXAMPLE])
        node.replace_all_uses_with(made)
        graph.erase_node(node)
        moved[node] = made
    return moved


def _selection(node: fx.Node) -> tuple[fx.Node, int, int] | None:
    """(tensor, axis, position >= 0) if the node takes one position along the first axis that it does not take whole."""
    name = operator_of(node)
    source = node.args[0] if node.args else None
    parts = _unbound(node)
    if parts is not None:
        source = parts.args[0]
    if not isinstance(source, fx.Node) or not isinstance(tensor := source.meta.get(EXAMPLE), Tensor):
        return None
    axis: Any
    position: Any
    if parts is not None:
        axis, position = parts.args[1] if len(parts.args) > 1 else parts.kwargs.get("dim", 0), node.args[1]
    elif name == "select" and len(node.args) == 3:
        axis, position = node.args[1:]
    elif name == "getitem":
        places = _places(node)
        axis = next((at for at, place in enumerate(places) if place != slice(None)), len(places))
        position = places[axis] if axis < len(places) else None
    else:
        return None
    if type(axis) is not int or type(position) is not int:
        return None
    axis %= tensor.ndim
    return source, axis, position % tensor.shape[axis]


def _unbound(node: fx.Node) -> fx.Node | None:
    """The call of `unbind` of which the node takes one part: a position along an axis, in other words."""
    source = node.args[0] if node.args else None
    one_part = operator_of(node) == "getitem" and isinstance(source, fx.Node) and operator_of(source) == "unbind"
    return source if one_part and isinstance(source, fx.Node) and source.args else None


def _places(node: fx.Node) -> tuple[Any, ...]:
    index = node.args[1]
    return index if isinstance(index, tuple) else (index,)


def _rest_of_index(node: fx.Node, axis: int) -> tuple[Any, ...] | None:
    """What an index asks for beside the one position; None if nothing."""
    if operator_of(node) != "getitem" or _unbound(node) is not None:
        return None
    places = _places(node)
    rest = (*places[:axis], *places[axis + 1 :])
    return None if all(place == slice(None) for place in rest) else rest


def _from_stack(source: fx.Node, axis: int, position: int) -> fx.Node | None:
    """The tensor that lies at the position of a stack along this axis."""
    if operator_of(source) != "stack":
        return None
    parts = source.args[0] if source.args else source.kwargs.get("tensors")
    dim = source.args[1] if len(source.args) > 1 else source.kwargs.get("dim", 0)
    if not isinstance(parts, Sequence) or not isinstance(dim, int) or dim % source.meta[EXAMPLE].ndim != axis:
        return None
    part = parts[position]
    return part if isinstance(part, fx.Node) else None


def _from_turned(graph: fx.Graph, source: fx.Node, axis: int, position: int) -> fx.Node | None:
    """The position taken from the tensor before its batch was moved, and what is left turned if it still has to be."""
    order, before = _order(source), source.args[0] if source.args else None
    if order is None or order[0] == 0 or not isinstance(before, fx.Node):
        return None
    taken = order[axis]
    left = [each - (each > taken) for at, each in enumerate(order) if at != axis]
    example: Tensor = before.meta[EXAMPLE].select(taken, position)
    made = _noted(graph.call_function(torch.select, (before, taken, position)), example)
    if left == sorted(left):
        return made
    return _noted(graph.call_function(torch.permute, (made, tuple(left))), example.permute(left))


def _order(node: fx.Node) -> list[int] | None:
    """Which axis of its input each axis of the node's output is; None for what does not just turn a tensor."""
    name, example = operator_of(node), node.meta.get(EXAMPLE)
    if not isinstance(example, Tensor) or name not in ("permute", *_SWAPS) or node.kwargs:
        return None
    given = node.args[1:]
    axes = given[0] if len(given) == 1 else given
    if not isinstance(axes, Sequence) or not all(type(each) is int for each in axes):
        return None
    places = [each % example.ndim for each in axes if isinstance(each, int)]
    if name == "permute":
        return places
    order = list(range(example.ndim))
    one, other = places
    order[one], order[other] = order[other], order[one]
    return order


def _noted(node: fx.Node, example: Tensor) -> fx.Node:
    node.meta[EXAMPLE] = example
    return node
