"""The C source of an integer graph: weights in one header, a sequence of kernel calls on statically planned memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import singledispatchmethod

import numpy as np

from pocketpipe.errors import UserError
from pocketpipe.integer.codebook import Codebook, codebooks_of
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
from pocketpipe.targets.c99.kernels import KERNELS, kernels_for
from pocketpipe.targets.lowering.memory import Interval, plan

WEIGHTS, HEADER, MODEL = "weights.h", "model.h", "model.c"
UNROLL = 8
"""Products that a circuit forms in a cycle, where nothing else is asked."""
AXES = 3
"""Of the tensors that these kernels move; sequences and vectors are read as boxes of length one along the others."""
SHARED_KERNEL = 512
"""About the bytes of code that the kernel for shared weights takes on a Cortex-M."""
NUMBERS_A_LINE = 24
C_TYPES = {"int8": "int8_t", "uint8": "uint8_t", "int32": "int32_t"}


@dataclass(frozen=True)
class Sources:
    """The files by their names, and what they take."""

    files: dict[str, str]
    arena: int
    """Bytes of working memory, input and output included."""
    constants: int
    """Bytes of weights, biases, factors and tables."""


def sources(graph: IntegerGraph, entry: np.ndarray | None = None, unroll: int = UNROLL) -> Sources:
    """The C files of `graph`.

    `entry`: int8 (channels, 256), the network's integer for each stored byte of each channel; the model's input is then
    an image of bytes. Without it, its input are the network's integers. `unroll`: products a cycle, for synthesis.
    Raises UserError for more than three axes.
    """
    emitter = Emitter(graph, *_memory(graph), unroll, codebooks_of(graph, SHARED_KERNEL))
    emitter.enter(entry)
    for operator in graph.operators:
        emitter.emit(operator)
    emitter.leave()
    return Sources(emitter.files(entry is not None), emitter.arena, emitter.constant_bytes)


def _memory(graph: IntegerGraph) -> tuple[dict[str, int], int]:
    """(offset of each tensor, bytes): a reshape takes no memory of its own."""
    same: dict[str, str] = {}
    for operator in graph.operators:
        if isinstance(operator, Reshape):
            same[operator.output] = same.get(operator.inputs[0], operator.inputs[0])
    first, last = {graph.input: 0}, {}
    for step, operator in enumerate(graph.operators):
        first.setdefault(same.get(operator.output, operator.output), step)
        for name in (*operator.inputs, operator.output):
            last[same.get(name, name)] = step
    last[same.get(graph.output, graph.output)] = len(graph.operators)
    intervals = [
        Interval(name, graph.tensors[name].elements, start, last.get(name, start)) for name, start in first.items()
    ]
    offsets, arena = plan(intervals)
    return {name: offsets[same.get(name, name)] for name in graph.tensors if same.get(name, name) in offsets}, arena


@dataclass
class Emitter:
    """Collects calls and constants; `arena`: bytes of memory, `offsets`: where in it each tensor lies."""

    graph: IntegerGraph
    offsets: dict[str, int]
    arena: int
    unroll: int = UNROLL
    codebooks: Mapping[str, Codebook] = field(default_factory=dict)
    """Of layers whose weights are stored so, by the tensor that they make."""
    calls: list[str] = field(default_factory=list)
    constants: list[str] = field(default_factory=list)
    names: dict[tuple[str, bytes], str] = field(default_factory=dict)
    weights: list[str] = field(default_factory=list)
    """Names of the arrays that products are formed with."""
    constant_bytes: int = 0

    def files(self, of_bytes: bool) -> dict[str, str]:
        return {
            KERNELS: kernels_for(self.calls),
            WEIGHTS: _WEIGHTS.format(constants="\n".join(self.constants)),
            HEADER: _HEADER.format(
                input_type="uint8_t" if of_bytes else "int8_t",
                inputs=self.graph.tensors[self.graph.input].elements,
                outputs=self.graph.tensors[self.graph.output].elements,
                arena=self.arena,
            ),
            MODEL: _MODEL.format(
                unroll=self.unroll,
                banks="\n".join(f"    POCKETPIPE_BANKS({name})" for name in ("arena", *self.weights)),
                calls="\n".join(f"    {call}" for call in self.calls),
            ),
        }

    def enter(self, entry: np.ndarray | None) -> None:
        elements, place = self.graph.tensors[self.graph.input].elements, self.at(self.graph.input)
        if entry is None:
            self.calls.append(self.move("input", (elements,), (1,), place, (1,)))
        else:
            channels = len(entry)
            tables = self.constant("entry", entry)
            self.call("enter", "input", tables, channels, elements // channels, place)

    def leave(self) -> None:
        elements = self.graph.tensors[self.graph.output].elements
        self.calls.append(self.move(self.at(self.graph.output), (elements,), (1,), "output", (1,)))

    @singledispatchmethod
    def emit(self, operator: Operator) -> None:
        raise UserError(f"operator {operator.name!r} ({type(operator).__name__}): there is no C kernel for it")

    @emit.register
    def _(self, operator: Convolution) -> None:
        (x,) = operator.inputs
        window = self.window(operator.weight.shape[1:3], operator.strides, operator.pads, operator.dilations)
        kernel, *weight = self.weight(operator)
        self.call(
            f"convolution{kernel}", self.at(x), self.image(x), *weight, self.constant("bias", operator.bias), window,
            operator.groups, operator.padding_value, *self.scale(operator.requantization),
            self.at(operator.output), self.image(operator.output),
        )  # fmt: skip

    @emit.register
    def _(self, operator: Linear) -> None:
        place, rows, read = self.rows(operator)
        kernel, *weight = self.weight(operator)
        bias, scale, to = self.constant("bias", operator.bias), self.scale(operator.requantization), operator.output
        if kernel:  # a row is a point of an image
            of_points = (self.window((1, 1), (1, 1), (0, 0, 0, 0), (1, 1)), 1, 0, *scale, self.at(to))
            shape, made = (self.struct("shape", (rows, 1, width)) for width in (read, len(operator.weight)))
            self.call(f"convolution{kernel}", place, shape, *weight, bias, *of_points, made)
        else:
            self.call("linear", place, rows, read, *weight, bias, *scale, self.at(to), len(operator.weight))

    @emit.register
    def _(self, operator: MatMul) -> None:
        left, right = (self.graph.tensors[name].shape for name in operator.inputs)
        if left[:-2] != right[:-2]:
            raise UserError(f"operator {operator.name!r} (MatMul): its inputs have different batches")
        batches = int(np.prod(left[:-2], dtype=np.int64))
        zero_left, zero_right = operator.zero_points
        self.call(
            "matmul", self.at(operator.inputs[0]), zero_left, self.at(operator.inputs[1]), zero_right, batches,
            left[-2], left[-1], right[-1], *self.scale(operator.requantization), self.at(operator.output),
        )  # fmt: skip

    @emit.register
    def _(self, operator: Add) -> None:
        end = (operator.shift, operator.zero_point, operator.low, operator.high, self.at(operator.output))
        if len(operator.inputs) == 1:
            count = self.graph.tensors[operator.output].elements
            x, zero, multiplier = self.at(operator.inputs[0]), operator.zero_points[0], operator.multipliers[0]
            self.call("rescale", x, zero, multiplier, *end, count)
            return
        both = zip(self.broadcast(operator), operator.zero_points, operator.multipliers, strict=True)
        self.call("add", *(part for place, zero, multiplier in both for part in (*place, zero, multiplier)), *end,
                  self.image(operator.output))  # fmt: skip

    @emit.register
    def _(self, operator: Multiply) -> None:
        both = zip(self.broadcast(operator), operator.zero_points, strict=True)
        self.call("multiply", *(part for place, zero in both for part in (*place, zero)),
                  *self.scale(operator.requantization), self.at(operator.output),
                  self.image(operator.output))  # fmt: skip

    @emit.register
    def _(self, operator: LayerNorm) -> None:
        limits = (operator.zero_point, operator.low, operator.high)
        self.call(
            "layer_norm", *self.rows(operator), operator.epsilon, self.constant("factor", operator.multiplier),
            self.constant("bias", operator.bias), operator.shift, *limits, self.at(operator.output),
        )  # fmt: skip

    @emit.register
    def _(self, operator: Softmax) -> None:
        exponentials = self.constant("exponentials", operator.exponentials)
        scale = self.scale(operator.requantization)
        self.call("softmax", *self.rows(operator), exponentials, *scale, self.at(operator.output))

    @emit.register
    def _(self, operator: SumPool) -> None:
        (x,) = operator.inputs
        window = self.window(operator.window, operator.strides, operator.pads, (1, 1))
        scale, to = self.scale(operator.requantization), self.at(operator.output)
        zero_point, made = operator.input_zero_point, self.image(operator.output)
        self.call("sum_pool", self.at(x), self.image(x), window, zero_point, *scale, to, made)

    @emit.register
    def _(self, operator: MaxPool) -> None:
        (x,) = operator.inputs
        window = self.window(operator.window, operator.strides, operator.pads, (1, 1))
        self.call("max_pool", self.at(x), self.image(x), window, self.at(operator.output), self.image(operator.output))

    @emit.register
    def _(self, operator: Table) -> None:
        (x,) = operator.inputs
        entries = self.constant("table", operator.entries)
        self.call("table", self.at(x), entries, self.at(operator.output), self.graph.tensors[x].elements)

    @emit.register
    def _(self, operator: Concatenation) -> None:
        steps, offset = self.steps(operator.output), 0
        axis = operator.axis - 1 + AXES - len(self.graph.tensors[operator.output].shape)
        for name in operator.inputs:
            to = f"{self.at(operator.output)} + {offset * steps[axis]}"
            self.calls.append(self.move(self.at(name), self.box(name), self.steps(name), to, steps))
            offset += self.box(name)[axis]

    @emit.register
    def _(self, operator: Pad) -> None:
        (x,) = operator.inputs
        steps = self.steps(operator.output)
        before = (0,) * (AXES - len(operator.amounts)) + tuple(amount[0] for amount in operator.amounts)
        offset = sum(start * step for start, step in zip(before, steps, strict=True))
        self.call("fill", operator.value, self.at(operator.output), self.graph.tensors[operator.output].elements)
        to = f"{self.at(operator.output)} + {offset}"
        self.calls.append(self.move(self.at(x), self.box(x), self.steps(x), to, steps))

    @emit.register
    def _(self, operator: Slice) -> None:
        (x,) = operator.inputs
        ranges = ((0, 1, 1),) * (AXES - len(operator.ranges)) + operator.ranges
        steps = self.steps(x)
        offset = sum(start * step for (start, _, _), step in zip(ranges, steps, strict=True))
        strides = tuple(step * stride for step, (_, _, stride) in zip(steps, ranges, strict=True))
        box, to = self.box(operator.output), self.at(operator.output)
        self.calls.append(self.move(f"{self.at(x)} + {offset}", box, strides, to, self.steps(operator.output)))

    @emit.register
    def _(self, operator: Transpose) -> None:
        (x,) = operator.inputs
        added = AXES + 1 - len(operator.order)
        order = (*range(added), *(axis - 1 + added for axis in operator.order[1:]))
        steps = tuple(self.steps(x)[axis] for axis in order)
        box, to = self.box(operator.output), self.at(operator.output)
        self.calls.append(self.move(self.at(x), box, steps, to, self.steps(operator.output)))

    @emit.register
    def _(self, operator: Reshape) -> None:
        """The same memory."""

    def call(self, kernel: str, *arguments: object) -> None:
        self.calls.append(f"pocketpipe_{kernel}({', '.join(map(str, arguments))});")

    def move(self, source: str, box: Sequence[int], steps: Sequence[int], sink: str, sink_steps: Sequence[int]) -> str:
        shape = self.struct("shape", _padded(box, 1))
        return f"pocketpipe_move({source}, {self.far(steps)}, {sink}, {self.far(sink_steps)}, {shape});"

    def at(self, tensor: str) -> str:
        return f"arena + {self.offsets[tensor]}"

    def box(self, tensor: str) -> tuple[int, ...]:
        """The tensor's shape over three axes."""
        shape = self.graph.tensors[tensor].shape
        if len(shape) > AXES:
            raise UserError(f"tensor {tensor!r} has {len(shape)} axes besides the batch; the C kernels know {AXES}")
        return _padded(shape, 1)

    def steps(self, tensor: str) -> tuple[int, ...]:
        """How far apart neighbours along each of the three axes lie."""
        box = self.box(tensor)
        return (box[1] * box[2], box[2], 1)

    def broadcast(self, operator: Operator) -> Iterable[tuple[str, str]]:
        """For each input its place and steps: 0 along axes where it is repeated."""
        for name in operator.inputs:
            box = self.box(name)
            steps = tuple(0 if length == 1 else step for length, step in zip(box, self.steps(name), strict=True))
            yield self.at(name), self.far(steps)

    def rows(self, operator: Operator) -> tuple[str, int, int]:
        """Where the input lies, how many rows it has along its last axis, and how long they are."""
        (x,) = operator.inputs
        width = self.graph.tensors[x].shape[-1]
        return self.at(x), self.graph.tensors[x].elements // width, width

    def image(self, tensor: str) -> str:
        return self.struct("shape", self.box(tensor))

    def far(self, steps: Sequence[int]) -> str:
        return self.struct("steps", _padded(steps, 0))

    def window(self, size: Sequence[int], strides: Sequence[int], pads: Sequence[int], dilations: Sequence[int]) -> str:
        return self.struct("window", (*size, *strides, *pads[:2], *dilations))

    def scale(self, requantization: Requantization) -> tuple[str, str, str]:
        """Multipliers, shifts, and the range that the result is clipped to."""
        each = int(len(requantization.multiplier) > 1)
        limits = (requantization.zero_point, requantization.low, requantization.high)
        return (
            self.constant("multiplier", requantization.multiplier),
            self.constant("shift", requantization.shift.astype(np.uint8)),
            self.struct("range", (each, *limits)),
        )

    def weight(self, layer: Convolution | Linear) -> tuple[str, ...]:
        """(what is added to the kernel's name, its arguments): the weights themselves, or indices into tables."""
        codebook = self.codebooks.get(layer.output)
        if codebook is None:
            name = self.constant("weight", layer.weight)
            if name not in self.weights:
                self.weights.append(name)
            return "", name
        tables = self.constant("table", codebook.tables)
        each = codebook.tables.shape[1] if len(codebook.tables) > 1 else 0
        return "_shared", tables, str(each), self.constant("indices", codebook.indices), str(codebook.bits)

    def constant(self, role: str, values: np.ndarray) -> str:
        """The name of an array in the weights header; equal arrays are stored once."""
        key = (values.dtype.name, np.ascontiguousarray(values).tobytes())
        if key not in self.names:
            name = f"{role}_{len(self.names)}"
            self.names[key] = name
            self.constants.append(_array(name, values))
            self.constant_bytes += values.nbytes
        return self.names[key]

    def struct(self, kind: str, numbers: Sequence[int]) -> str:
        """The name of a constant of type `pocketpipe_<kind>`: C's unnamed ones would take stack for each call."""
        values = np.array(numbers, np.int32)
        key = (kind, values.tobytes())
        if key not in self.names:
            name = f"{kind}_{len(self.names)}"
            self.names[key] = name
            self.constants.append(f"static const pocketpipe_{kind} {name} = {{{', '.join(map(str, numbers))}}};")
            self.constant_bytes += values.nbytes
        return self.names[key]


def _padded(values: Sequence[int], fill: int) -> tuple[int, ...]:
    return (fill,) * (AXES - len(values)) + tuple(values)


def _array(name: str, values: np.ndarray) -> str:
    numbers = [_literal(int(value)) for value in values.reshape(-1)]
    lines = [", ".join(numbers[i : i + NUMBERS_A_LINE]) for i in range(0, len(numbers), NUMBERS_A_LINE)]
    return f"static const {C_TYPES[values.dtype.name]} {name}[{len(numbers)}] = {{\n    " + ",\n    ".join(lines) + "};"


def _literal(value: int) -> str:
    """C has no negative literals: -2147483648 is an expression of a wider type."""
    return "(-2147483647 - 1)" if value == -(2**31) else str(value)


_WEIGHTS = """\
/* Weights, biases, factors, tables and sizes of the network. */
#ifndef POCKETPIPE_WEIGHTS_H
#define POCKETPIPE_WEIGHTS_H

#include "kernels.h"

{constants}

#endif
"""

_HEADER = """\
/* The network as one function. */
#ifndef POCKETPIPE_INTEGERS_H
#define POCKETPIPE_INTEGERS_H

#include <stdint.h>

#define POCKETPIPE_INPUTS {inputs}
#define POCKETPIPE_OUTPUTS {outputs}
#define POCKETPIPE_ARENA {arena} /* bytes of static working memory */

typedef {input_type} pocketpipe_input;

#ifdef __cplusplus
extern "C" {{
#endif

/* With static working memory. */
void pocketpipe_run(const pocketpipe_input input[POCKETPIPE_INPUTS], int8_t output[POCKETPIPE_OUTPUTS]);

/* With working memory of the caller's: several examples at once. */
void pocketpipe_run_in(int8_t arena[POCKETPIPE_ARENA], const pocketpipe_input input[POCKETPIPE_INPUTS],
                       int8_t output[POCKETPIPE_OUTPUTS]);

#ifdef __cplusplus
}}
#endif

#endif
"""

_MODEL = """\
#include "model.h"

#ifndef POCKETPIPE_UNROLL
#define POCKETPIPE_UNROLL {unroll} /* products a cycle, where a circuit is made of this */
#endif
#include "weights.h"

void pocketpipe_run_in(int8_t arena[POCKETPIPE_ARENA], const pocketpipe_input input[POCKETPIPE_INPUTS],
                       int8_t output[POCKETPIPE_OUTPUTS]) {{
{banks}
{calls}
}}

#ifndef POCKETPIPE_NO_STATIC_MEMORY
void pocketpipe_run(const pocketpipe_input input[POCKETPIPE_INPUTS], int8_t output[POCKETPIPE_OUTPUTS]) {{
    static int8_t arena[POCKETPIPE_ARENA];
    pocketpipe_run_in(arena, input, output);
}}
#endif
"""
