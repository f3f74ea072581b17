"""Operators of an integer graph -> calls of plain C kernels, and the constants that they take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import singledispatchmethod
from math import prod

import numpy as np

from pocketpipe.errors import UserError
from pocketpipe.integer.codebook import Codebook
from pocketpipe.integer.fixed_point import Requantization
from pocketpipe.integer.graph import (
    Add,
    Concatenation,
    Convolution,
    IntegerGraph,
    LayerNorm,
    Linear,
    MatMul,
    MaxPool,
    Multiply,
    Operator,
    Pad,
    Reshape,
    Slice,
    Softmax,
    SumPool,
    Table,
    Transpose,
)
from pocketpipe.targets.c99.constants import Constants
from pocketpipe.targets.moving import moves, steps_of

AXES = 3
"""Of the tensors that these kernels move; sequences and vectors are read as boxes of length one along the others."""


@dataclass
class Emitter:
    """Collects calls and constants; `offsets`: where in the arena each tensor lies."""

    graph: IntegerGraph
    offsets: dict[str, int]
    codebooks: Mapping[str, Codebook] = field(default_factory=dict)
    """Of layers whose weights are stored so, by the tensor that they make."""
    calls: list[str] = field(default_factory=list)
    constants: Constants = field(default_factory=Constants)
    weights: list[str] = field(default_factory=list)
    """Names of the arrays that products are formed with."""

    def enter(self, entry: np.ndarray | None) -> None:
        elements, place = self.graph.tensors[self.graph.input].elements, self.at(self.graph.input)
        if entry is None:
            self.calls.append(self.move("input", (elements,), (1,), place, (1,)))
        else:
            channels = len(entry)
            tables = self.constants.array("entry", entry)
            self.call("enter", "input", tables, channels, elements // channels, place)

    def leave(self) -> None:
        elements = self.graph.tensors[self.graph.output].elements
        self.calls.append(self.move(self.at(self.graph.output), (elements,), (1,), "output", (1,)))

    def emit(self, operator: Operator) -> None:
        """Add the operator's calls. Raises UserError, naming it, for what no kernel takes: more than three axes."""
        try:
            self._emit(operator)
        except UserError as error:
            raise UserError(f"operator {operator.name!r} ({type(operator).__name__}): {error}") from None

    @singledispatchmethod
    def _emit(self, operator: Operator) -> None:
        raise UserError("there is no C kernel for it")

    @_emit.register
    def _(self, operator: Convolution) -> None:
        (x,) = operator.inputs
        window = self.window(operator.weight.shape[1:3], operator.strides, operator.pads, operator.dilations)
        kernel, *weight = self.weight(operator)
        bias = self.constants.array("bias", operator.bias)
        self.call(
            f"convolution{kernel}", self.at(x), self.image(x), *weight, bias, window, operator.groups,
            operator.padding_value, *self.scale(operator.requantization), self.at(operator.output),
            self.image(operator.output),
        )  # fmt: skip

    @_emit.register
    def _(self, operator: Linear) -> None:
        place, rows, read = self.rows(operator)
        kernel, *weight = self.weight(operator)
        bias, scale = self.constants.array("bias", operator.bias), self.scale(operator.requantization)
        to = operator.output
        if kernel:  # a row is a point of an image
            of_points = (self.window((1, 1), (1, 1), (0, 0, 0, 0), (1, 1)), 1, 0, *scale, self.at(to))
            shape, made = (self.constants.struct("shape", (rows, 1, width)) for width in (read, len(operator.weight)))
            self.call(f"convolution{kernel}", place, shape, *weight, bias, *of_points, made)
        else:
            self.call("linear", place, rows, read, *weight, bias, *scale, self.at(to), len(operator.weight))

    @_emit.register
    def _(self, operator: MatMul) -> None:
        left, right = (self.graph.tensors[name].shape for name in operator.inputs)
        if left[:-2] == right[:-2]:
            batches, rows = prod(left[:-2]), left[-2]
        elif len(left) == len(right) and prod(right[:-2]) == 1:  # one matrix for all rows
            batches, rows = 1, prod(left[:-1])
        else:
            raise UserError("its inputs have different batches")
        zero_left, zero_right = operator.zero_points
        self.call(
            "matmul", self.at(operator.inputs[0]), zero_left, self.at(operator.inputs[1]), zero_right, batches,
            rows, left[-1], right[-1], *self.scale(operator.requantization), self.at(operator.output),
        )  # fmt: skip

    @_emit.register
    def _(self, operator: Add) -> None:
        end = (operator.shift, operator.zero_point, operator.low, operator.high, self.at(operator.output))
        if len(operator.inputs) == 1:
            count = self.graph.tensors[operator.output].elements
            x, zero, multiplier = self.at(operator.inputs[0]), operator.zero_points[0], operator.multipliers[0]
            self.call("rescale", x, zero, multiplier, *end, count)
            return
        places, made = self.broadcast(operator)
        both = zip(places, operator.zero_points, operator.multipliers, strict=True)
        self.call("add", *(part for place, zero, multiplier in both for part in (*place, zero, multiplier)), *end, made)

    @_emit.register
    def _(self, operator: Multiply) -> None:
        places, made = self.broadcast(operator)
        both = zip(places, operator.zero_points, strict=True)
        self.call("multiply", *(part for place, zero in both for part in (*place, zero)),
                  *self.scale(operator.requantization), self.at(operator.output), made)  # fmt: skip

    @_emit.register
    def _(self, operator: LayerNorm) -> None:
        limits = (operator.zero_point, operator.low, operator.high)
        self.call(
            "layer_norm", *self.rows(operator), operator.epsilon, self.constants.array("factor", operator.multiplier),
            self.constants.array("bias", operator.bias), operator.shift, *limits, self.at(operator.output),
        )  # fmt: skip

    @_emit.register
    def _(self, operator: Softmax) -> None:
        exponentials = self.constants.array("exponentials", operator.exponentials)
        scale = self.scale(operator.requantization)
        self.call("softmax", *self.rows(operator), exponentials, *scale, self.at(operator.output))

    @_emit.register
    def _(self, operator: SumPool) -> None:
        (x,) = operator.inputs
        window = self.window(operator.window, operator.strides, operator.pads, (1, 1))
        scale, to = self.scale(operator.requantization), self.at(operator.output)
        zero_point, made = operator.input_zero_point, self.image(operator.output)
        self.call("sum_pool", self.at(x), self.image(x), window, zero_point, *scale, to, made)

    @_emit.register
    def _(self, operator: MaxPool) -> None:
        (x,) = operator.inputs
        window = self.window(operator.window, operator.strides, operator.pads, (1, 1))
        self.call("max_pool", self.at(x), self.image(x), window, self.at(operator.output), self.image(operator.output))

    @_emit.register
    def _(self, operator: Table) -> None:
        (x,) = operator.inputs
        entries = self.constants.array("table", operator.entries)
        self.call("table", self.at(x), entries, self.at(operator.output), self.graph.tensors[x].elements)

    @_emit.register
    def _(self, operator: Concatenation | Slice | Transpose) -> None:
        self.moved(operator)

    @_emit.register
    def _(self, operator: Pad) -> None:
        self.call("fill", operator.value, self.at(operator.output), self.graph.tensors[operator.output].elements)
        self.moved(operator)

    @_emit.register
    def _(self, operator: Reshape) -> None:
        """The same memory."""

    def call(self, kernel: str, *arguments: object) -> None:
        self.calls.append(f"pocketpipe_{kernel}({', '.join(map(str, arguments))});")

    def move(self, source: str, box: Sequence[int], steps: Sequence[int], sink: str, sink_steps: Sequence[int]) -> str:
        shape = self.constants.struct("shape", _padded(box, 1))
        return f"pocketpipe_move({source}, {self.far(steps)}, {sink}, {self.far(sink_steps)}, {shape});"

    def moved(self, operator: Operator) -> None:
        """What the operator moves, box by box."""
        for move in moves(operator, self.graph):
            source, to = self.at(move.source, move.start), self.at(operator.output, move.sink_start)
            steps = _padded(move.box.source_steps, self.graph.tensors[move.source].elements)
            sink_steps = _padded(move.box.sink_steps, self.graph.tensors[operator.output].elements)
            self.calls.append(self.move(source, move.box.lengths, steps, to, sink_steps))

    def at(self, tensor: str, element: int = 0) -> str:
        return f"arena + {self.offsets[tensor]}" + (f" + {element}" if element else "")

    def box(self, tensor: str) -> tuple[int, ...]:
        """The tensor's shape over three axes. Raises UserError for more."""
        return _padded(self.graph.tensors[tensor].shape, 1)

    def broadcast(self, operator: Operator) -> tuple[list[tuple[str, str]], str]:
        """(for each input its place and steps, 0 along axes where it is repeated; the box that is made).

        Tensors of one shape are rows of numbers, whatever their axes are.
        """
        names = (*operator.inputs, operator.output)
        shapes = {self.graph.tensors[name].shape for name in names}
        boxes = [self.box(name) if len(shapes) > 1 else (1, 1, prod(self.graph.tensors[name].shape)) for name in names]
        places = []
        for name, box in zip(operator.inputs, boxes, strict=False):
            steps = tuple(0 if length == 1 else step for length, step in zip(box, steps_of(box), strict=True))
            places.append((self.at(name), self.far(steps)))
        return places, self.constants.struct("shape", boxes[-1])

    def rows(self, operator: Operator) -> tuple[str, int, int]:
        """Where the input lies, how many rows it has along its last axis, and how long they are."""
        (x,) = operator.inputs
        width = self.graph.tensors[x].shape[-1]
        return self.at(x), self.graph.tensors[x].elements // width, width

    def image(self, tensor: str) -> str:
        return self.constants.struct("shape", self.box(tensor))

    def far(self, steps: Sequence[int]) -> str:
        return self.constants.struct("steps", _padded(steps, 0))

    def window(self, size: Sequence[int], strides: Sequence[int], pads: Sequence[int], dilations: Sequence[int]) -> str:
        return self.constants.struct("window", (*size, *strides, *pads[:2], *dilations))

    def scale(self, requantization: Requantization) -> tuple[str, str, str]:
        """Multipliers, shifts, and the range that the result is clipped to."""
        each = int(len(requantization.multiplier) > 1)
        limits = (requantization.zero_point, requantization.low, requantization.high)
        return (
            self.constants.array("multiplier", requantization.multiplier),
            self.constants.array("shift", requantization.shift.astype(np.uint8)),
            self.constants.struct("range", (each, *limits)),
        )

    def weight(self, layer: Convolution | Linear) -> tuple[str, ...]:
        """(what is added to the kernel's name, its arguments): the weights themselves, or indices into tables."""
        codebook = self.codebooks.get(layer.output)
        if codebook is None:
            return "", self._in_banks(self.constants.array("weight", layer.weight))
        tables = self.constants.array("table", codebook.tables)
        each = codebook.tables.shape[1] if len(codebook.tables) > 1 else 0
        indices = self._in_banks(self.constants.array("indices", codebook.indices))
        return "_shared", tables, str(each), indices, str(codebook.bits)

    def _in_banks(self, name: str) -> str:
        """The array, of which a circuit reads several elements at once."""
        if name not in self.weights:
            self.weights.append(name)
        return name


def _padded(values: Sequence[int], fill: int) -> tuple[int, ...]:
    """One value for each of three axes. Raises UserError for more."""
    if len(values) > AXES:
        raise UserError(f"{len(values)} axes besides the batch; the C kernels know {AXES}")
    return (fill,) * (AXES - len(values)) + tuple(values)
