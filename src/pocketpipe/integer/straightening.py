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
    Concatenation,
    IntegerGraph,
    IntegerTensor,
    MaxPool,
    Multiply,
    Operator,
    Pad,
    Reshape,
    Shape,
    Slice,
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
    """The same graph with fewer moves: what undoes earlier ones is a reshape, and what can be computed before its input
    is turned (element by element, along sequences) is, so that its mover meets the one that undoes it.

    As it was, where that does not save any: several readers each turn what they make of one tensor. What nobody reads
    goes in any case.
    """
    straight, read = _without_unread(_Straightening(graph).graph()), _without_unread(graph)
    return straight if _turned(straight) < _turned(read) else read


def _turned(graph: IntegerGraph) -> int:
    """Bytes that transpositions move."""
    return sum(graph.tensors[each.output].elements for each in graph.operators if isinstance(each, Transpose))


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
            elif (other := self._channels_last(operator, origins)) is not None:
                self._along_sequences(operator, other, origins)
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
        if places is None and (origin.places is not None or isinstance(operator, Transpose)):
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

    def _channels_last(self, operator: Operator, origins: list[Origin]) -> Operator | None:
        """What it is on images (1, length, channels); None if it is nothing there, or not all its inputs were those.

        Its own inputs are sequences (channels, length), for windows (channels, length, 1).
        """
        shapes = [self._tensors[name].shape for name in operator.inputs]
        if not all(self._was_turned(shape, origin) for shape, origin in zip(shapes, origins, strict=True)):
            return None
        match operator:
            case MaxPool() | SumPool():
                across = (operator.window[0], operator.strides[0], operator.pads[0], operator.pads[2])
                return operator if across == (1, 1, 0, 0) else None
            case Concatenation() if len(shapes[0]) == 2:
                return replace(operator, axis={1: 3, 2: 2}[operator.axis])
            case Slice() if len(shapes[0]) == 2:
                return replace(operator, ranges=((0, 1, 1), *reversed(operator.ranges)))
            case Pad() if len(shapes[0]) == 2:
                return replace(operator, amounts=((0, 0), *reversed(operator.amounts)))
        return None

    @staticmethod
    def _was_turned(shape: Shape, origin: Origin) -> bool:
        """Whether these are sequences whose root has the channels last."""
        if origin.places is None or len(shape) not in (2, 3) or shape[2:] not in ((), (1,)):
            return False
        channels, length = shape[:2]
        return np.array_equal(origin.places, np.arange(channels * length).reshape(length, channels).T.reshape(-1))

    def _along_sequences(self, operator: Operator, other: Operator, origins: list[Origin]) -> None:
        """`other` on the roots as images, then turned to what `operator` makes of sequences."""
        rows, unmoved = [], f"{operator.output}/unmoved"
        for number, (name, origin) in enumerate(zip(operator.inputs, origins, strict=True)):
            channels, length = self._tensors[name].shape[:2]
            row = Reshape(
                f"{operator.output}/row{number}",
                (origin.root,),
                f"{operator.output}/row{number}",
                (1, length, channels),
            )
            self._add(row, replace(self._tensors[origin.root], shape=row.shape))
            rows.append(row.output)
        made = self._tensors[operator.output]
        channels, length = made.shape[:2]
        self._add(replace(other, inputs=tuple(rows), output=unmoved), replace(made, shape=(1, length, channels)))
        windows = (channels, length, 1)
        turned = operator.output if made.shape == windows else f"{unmoved}/turned"
        self._tensors[turned] = replace(made, shape=windows)
        self._move(Transpose(f"{operator.name}/turned", (unmoved,), turned, (0, 3, 2, 1)), Origin(unmoved))
        if turned != operator.output:
            self._move(Reshape(f"{operator.name}/shape", (turned,), operator.output, made.shape), self._origins[turned])


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
