"""Transpositions that undo each other, taken out of an integer graph. What is left computes the same integers.

One-dimensional networks need it most: the file's order is (channels, length), a convolution reads the channels last, so
without it every layer would turn its input and turn its output back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from pocketpipe.integer.graph import (
    Add,
    IntegerGraph,
    IntegerTensor,
    MaxPool,
    Multiply,
    Operator,
    Reshape,
    SumPool,
    Table,
    Transpose,
)

Move: TypeAlias = Reshape | Transpose
ELEMENTWISE = (Add, Multiply, Table)


@dataclass(frozen=True)
class Origin:
    """Where the numbers of a tensor were before they were only moved."""

    root: str
    moves: tuple[Move, ...] = ()
    """From the root to the tensor."""
    places: np.ndarray | None = None
    """(elements,): which of the root's numbers lies where; None where all are in the root's order."""


def straightened(graph: IntegerGraph) -> IntegerGraph:
    """The same graph with fewer moves: what undoes earlier ones is a reshape, and what can be computed before it is
    moved (element by element, windows along sequences) is, so that its mover meets the one that undoes it."""
    return _without_unread(_Straightening(graph).graph())


class _Straightening:
    """State of one pass, in the order of execution."""

    def __init__(self, graph: IntegerGraph) -> None:
        self._graph = graph
        self._tensors = dict(graph.tensors)
        self._operators: list[Operator] = []
        self._origins: dict[str, Origin] = {}

    def graph(self) -> IntegerGraph:
        """All operators, passed through."""
        for operator in self._graph.operators:
            origins = [self._origins.get(name, Origin(name)) for name in operator.inputs]
            if isinstance(operator, Move):
                self._move(operator, origins[0])
            elif isinstance(operator, ELEMENTWISE) and self._moved_alike(operator, origins):
                self._before_it_is_moved(operator, origins)
            elif isinstance(operator, MaxPool | SumPool) and self._slides_along_a_turned_sequence(operator, origins[0]):
                self._along_channels_last(operator, origins[0])
            else:
                self._operators.append(operator)
        return replace(self._graph, tensors=self._tensors, operators=tuple(self._operators))

    def _add(self, operator: Operator, tensor: IntegerTensor) -> None:
        self._operators.append(operator)
        self._tensors[operator.output] = tensor

    def _move(self, operator: Move, origin: Origin) -> None:
        places = origin.places
        if isinstance(operator, Transpose):
            shape = self._tensors[operator.inputs[0]].shape
            before = np.arange(np.prod(shape)) if places is None else places
            turned = before.reshape(1, *shape).transpose(operator.order).reshape(-1)
            places = None if np.array_equal(turned, np.arange(turned.size)) else turned
        if places is None and origin.places is not None:
            operator = Reshape(operator.name, (origin.root,), operator.output, self._tensors[operator.output].shape)
            origin = Origin(origin.root)
        self._operators.append(operator)
        self._origins[operator.output] = Origin(origin.root, (*origin.moves, operator), places)

    def _moved_alike(self, operator: Operator, origins: list[Origin]) -> bool:
        """Whether all that it reads, element by element, was moved in one and the same way."""
        made = self._tensors[operator.output].shape
        root, places = self._tensors[origins[0].root].shape, origins[0].places
        if places is None or any(self._tensors[name].shape != made for name in operator.inputs):
            return False
        return all(
            self._tensors[origin.root].shape == root
            and origin.places is not None
            and np.array_equal(origin.places, places)
            for origin in origins
        )

    def _before_it_is_moved(self, operator: Operator, origins: list[Origin]) -> None:
        first, made = origins[0], self._tensors[operator.output]
        unmoved = f"{operator.output}/unmoved"
        roots = tuple(origin.root for origin in origins)
        shape = self._tensors[first.root].shape
        self._add(replace(operator, inputs=roots, output=unmoved), replace(made, shape=shape))
        names = [unmoved, *(f"{unmoved}/{number}" for number in range(1, len(first.moves))), operator.output]
        moves = tuple(
            replace(move, inputs=(source,), output=name)
            for move, source, name in zip(first.moves, names[:-1], names[1:], strict=True)
        )
        for move, old in zip(moves, first.moves, strict=True):
            self._add(move, replace(made, shape=self._tensors[old.output].shape))
        self._origins[operator.output] = Origin(unmoved, moves, first.places)

    def _slides_along_a_turned_sequence(self, operator: MaxPool | SumPool, origin: Origin) -> bool:
        """Whether windows lie along the rows of (channels, length, 1), whose root has the channels last."""
        channels, length, one = self._tensors[operator.inputs[0]].shape
        down = (operator.window[0], operator.strides[0], one, operator.pads[0], operator.pads[2])
        if origin.places is None or down != (1, 1, 1, 0, 0):
            return False
        return np.array_equal(origin.places, np.arange(channels * length).reshape(length, channels).T.reshape(-1))

    def _along_channels_last(self, operator: MaxPool | SumPool, origin: Origin) -> None:
        channels, length, _ = self._tensors[operator.inputs[0]].shape
        made, root = self._tensors[operator.output], self._tensors[origin.root]
        source, unmoved = f"{operator.output}/row", f"{operator.output}/unmoved"
        self._add(
            Reshape(source, (origin.root,), source, (1, length, channels)), replace(root, shape=(1, length, channels))
        )
        pooled = replace(made, shape=(1, made.shape[1], channels))
        self._add(replace(operator, inputs=(source,), output=unmoved), pooled)
        self._move(Transpose(f"{operator.name}/turned", (unmoved,), operator.output, (0, 3, 2, 1)), Origin(unmoved))


def _without_unread(graph: IntegerGraph) -> IntegerGraph:
    """Without operators whose results nobody reads."""
    read, kept = {graph.output}, list[Operator]()
    for operator in reversed(graph.operators):
        if operator.output in read:
            read.update(operator.inputs)
            kept.append(operator)
    left = {graph.input, *(operator.output for operator in kept)}
    tensors = {name: tensor for name, tensor in graph.tensors.items() if name in left}
    return IntegerGraph(tensors, tuple(reversed(kept)), graph.input, graph.output)
