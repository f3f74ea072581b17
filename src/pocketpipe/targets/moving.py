"""What operators that only move numbers move: boxes of elements, from where to where. For every back end the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import singledispatch
from math import prod

from pocketpipe.integer.graph import Concatenation, IntegerGraph, Operator, Pad, Slice, Transpose


@dataclass(frozen=True)
class Box:
    """Elements to be moved: lengths of the axes, and how far neighbours along each lie apart on both sides."""

    lengths: tuple[int, ...]
    source_steps: tuple[int, ...]
    sink_steps: tuple[int, ...]


@dataclass(frozen=True)
class Move:
    """A box of the tensor `source`, from its element `start` on, to element `sink_start` on of what is made."""

    source: str
    start: int
    sink_start: int
    box: Box


def moves(operator: Operator, graph: IntegerGraph) -> tuple[Move, ...]:
    """All moves of an operator: boxes of as few axes as can be. What a Pad adds is not moved: it is there before."""
    return tuple(replace(move, box=merged(move.box)) for move in _moves(operator, graph))


def merged(box: Box) -> Box:
    """The same elements: neighbouring axes as one where they lie as one on both sides, without those of length 1.

    >>> merged(Box((2, 3, 4), source_steps=(24, 4, 1), sink_steps=(12, 4, 1)))
    Box(lengths=(2, 12), source_steps=(24, 1), sink_steps=(12, 1))
    """
    axes: list[tuple[int, int, int]] = []
    for length, source, sink in zip(box.lengths, box.source_steps, box.sink_steps, strict=True):
        if axes and axes[-1][1:] == (source * length, sink * length):
            axes[-1] = (axes[-1][0] * length, source, sink)
        elif length > 1:
            axes.append((length, source, sink))
    lengths, source_steps, sink_steps = zip(*(axes or [(1, 1, 1)]), strict=True)
    return Box(lengths, source_steps, sink_steps)


@singledispatch
def _moves(operator: Operator, graph: IntegerGraph) -> tuple[Move, ...]:
    raise NotImplementedError(type(operator).__name__)


@_moves.register
def _(operator: Concatenation, graph: IntegerGraph) -> tuple[Move, ...]:
    axis, sink_steps = operator.axis - 1, steps_of(graph.tensors[operator.output].shape)
    found, place = [], 0
    for name in operator.inputs:
        shape = graph.tensors[name].shape
        found.append(Move(name, 0, place, Box(shape, steps_of(shape), sink_steps)))
        place += shape[axis] * sink_steps[axis]
    return tuple(found)


@_moves.register
def _(operator: Pad, graph: IntegerGraph) -> tuple[Move, ...]:
    (x,) = operator.inputs
    shape, sink_steps = graph.tensors[x].shape, steps_of(graph.tensors[operator.output].shape)
    start = sum(before * step for (before, _), step in zip(operator.amounts, sink_steps, strict=True))
    return (Move(x, 0, start, Box(shape, steps_of(shape), sink_steps)),)


@_moves.register
def _(operator: Slice, graph: IntegerGraph) -> tuple[Move, ...]:
    (x,) = operator.inputs
    shape, steps = graph.tensors[operator.output].shape, steps_of(graph.tensors[x].shape)
    start = sum(first * step for (first, _, _), step in zip(operator.ranges, steps, strict=True))
    strides = tuple(step * stride for step, (_, _, stride) in zip(steps, operator.ranges, strict=True))
    return (Move(x, start, 0, Box(shape, strides, steps_of(shape))),)


@_moves.register
def _(operator: Transpose, graph: IntegerGraph) -> tuple[Move, ...]:
    (x,) = operator.inputs
    shape, steps = graph.tensors[operator.output].shape, steps_of(graph.tensors[x].shape)
    turned = tuple(steps[axis - 1] for axis in operator.order[1:])
    return (Move(x, 0, 0, Box(shape, turned, steps_of(shape))),)


def steps_of(shape: Sequence[int]) -> tuple[int, ...]:
    """Elements from one index to the next along each axis.

    >>> steps_of((2, 3, 5))
    (15, 5, 1)
    """
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))
