"""Integer graph -> calls on planned memory: kernels of ours where speed counts, the plain C ones for the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial, singledispatchmethod
from pathlib import Path
from typing import Any

from pocketpipe.integer.fixed_point import Requantization
from pocketpipe.integer.graph import (
    Add,
    Concatenation,
    Convolution,
    IntegerGraph,
    Linear,
    MaxPool,
    Operator,
    Pad,
    Reshape,
    Slice,
    SumPool,
    Transpose,
)
from pocketpipe.targets.c99.emitting import Emitter
from pocketpipe.targets.lowering.cpu import Cpu
from pocketpipe.targets.lowering.integers import elementwise
from pocketpipe.targets.lowering.integers.geometry import (
    SumOfProducts,
    addition_parameters,
    geometry,
)
from pocketpipe.targets.lowering.integers.kernel import kernel_of
from pocketpipe.targets.lowering.integers.preparing import OVERHANG
from pocketpipe.targets.lowering.integers.sections import packed_weights, parameters, sections
from pocketpipe.targets.lowering.integers.steps import Step, left_to_plain_c, steps
from pocketpipe.targets.lowering.memory import Blob, Interval, Lifetimes, Use, aligned, plan
from pocketpipe.targets.lowering.objects import write_object
from pocketpipe.targets.lowering.parts import Kernel
from pocketpipe.targets.lowering.schedule import Schedule
from pocketpipe.targets.moving import moves
from pocketpipe.targets.sharing import Shared, Statement, call


@dataclass(frozen=True)
class Place:
    """Where an argument of a kernel lies: a tensor (from its element `offset` on), or constants."""

    tensor: str | None
    offset: int


@dataclass(frozen=True)
class KernelCall:
    """One call of a kernel of ours."""

    kernel: str
    arguments: tuple[Place, ...]


@dataclass(frozen=True)
class IntegerProgram:
    """All that the C source of an integer model needs beside the object file."""

    calls: tuple[Statement, ...]
    """In C on `arena` and `pocketpipe_weights`."""
    kernels: dict[str, tuple[int, bool]]
    """Functions of the object file: how many pointers each takes, and whether two numbers follow."""
    weights: bytes
    plain: Emitter
    """The constants and helpers of the calls of plain C kernels."""
    arena: int
    input: int
    output: int
    """Where the network's input and output lie in the arena."""


Chosen = Mapping[SumOfProducts, Schedule]
"""Schedules that are not by rule."""


def shapes(graph: IntegerGraph) -> Counter[SumOfProducts]:
    """The sums of products of a graph, and how many layers have each."""
    found = (
        geometry(step.operator, graph.tensors[step.inputs[0]], graph.tensors[step.operator.output], step.addition)
        for step in steps(graph)
    )
    return Counter(shape for shape in found if shape is not None)


def compile_integers(
    graph: IntegerGraph, cpu: Cpu, object_file: Path, threads: int = 1, chosen: Chosen | None = None
) -> IntegerProgram:
    """Compile `graph` for `cpu`: kernels into `object_file`, the rest into an IntegerProgram."""
    building = _Building(graph, cpu, threads, chosen or {})
    for step in steps(graph):
        building.add(step)
    return building.finish(object_file)


@dataclass
class _Building:
    """The steps so far: calls of our kernels, or operators that are left to plain C."""

    graph: IntegerGraph
    cpu: Cpu
    threads: int
    chosen: Chosen
    kernels: dict[Any, Kernel] = field(default_factory=dict)
    """By what they were made from, so that layers of equal shape share one."""
    names: dict[Any, str] = field(default_factory=dict)
    weights: Blob = field(default_factory=Blob)
    steps: list[tuple[Step, list[KernelCall]]] = field(default_factory=list)

    def add(self, step: Step) -> None:
        """One step; without a kernel of ours it is left to plain C."""
        self.steps.append((step, list(self.calls(step))))

    def calls(self, step: Step) -> Iterator[KernelCall]:
        operator = step.operator
        if left_to_plain_c(operator, self.graph):
            return
        shape = geometry(operator, self.graph.tensors[operator.inputs[0]], self.graph.tensors[operator.output],
                         step.addition)  # fmt: skip
        if shape is None:
            yield from self.moved(operator)
            return
        yield self.sum_of_products(step, shape)

    def sum_of_products(self, step: Step, shape: SumOfProducts) -> KernelCall:
        operator, unit = step.operator, self.cpu.unit
        assert isinstance(operator, Convolution | Linear)  # only these have such a shape
        added = () if step.addition is None else addition_parameters(step.addition, step.own)
        cut = sections(shape, unit)
        packed = (packed_weights(cut, operator.weight), parameters(cut, operator, added))
        constants = [Place(None, self.weights.place(values)) for values in packed]
        x, *other = (Place(name, 0) for name in step.inputs)
        return self.call((shape,), lambda: kernel_of(shape, unit, self.threads, self.chosen.get(shape)), x,
                         *constants, *other, Place(step.output, 0))  # fmt: skip

    @singledispatchmethod
    def moved(self, operator: Operator) -> Iterator[KernelCall]:
        """Calls for an operator that sums no products."""
        raise NotImplementedError(type(operator).__name__)

    @moved.register
    def _(self, operator: Add) -> Iterator[KernelCall]:
        count = self.graph.tensors[operator.output].elements
        made_from = ("add", operator.multipliers, operator.shift, operator.zero_points, operator.zero_point,
                     operator.low, operator.high, count)  # fmt: skip
        yield self.call(made_from, lambda: elementwise.addition(operator, count), *self.ends(operator))

    @moved.register
    def _(self, operator: SumPool) -> Iterator[KernelCall]:
        shape, made = self.shapes(operator)
        made_from = ("sum", operator.window, operator.strides, operator.pads, operator.input_zero_point,
                     _key(operator.requantization), shape, made)  # fmt: skip
        yield self.call(made_from, lambda: elementwise.sum_pool(operator, shape, made), *self.ends(operator))

    @moved.register
    def _(self, operator: MaxPool) -> Iterator[KernelCall]:
        shape, made = self.shapes(operator)
        made_from = ("max", operator.window, operator.strides, operator.pads, shape, made)
        yield self.call(made_from, lambda: elementwise.max_pool(operator, shape, made), *self.ends(operator))

    @moved.register
    def _(self, operator: Concatenation | Slice | Transpose) -> Iterator[KernelCall]:
        yield from self.boxes(operator)

    @moved.register
    def _(self, operator: Pad) -> Iterator[KernelCall]:
        out, count = operator.output, self.graph.tensors[operator.output].elements
        yield self.call(("fill", operator.value, count), lambda: elementwise.fill(operator.value, count), Place(out, 0))
        yield from self.boxes(operator)

    def boxes(self, operator: Operator) -> Iterator[KernelCall]:
        """What the operator moves, box by box."""
        for move in moves(operator, self.graph):
            source, sink = Place(move.source, move.start), Place(operator.output, move.sink_start)
            yield self.call(move.box, partial(elementwise.move, move.box), source, sink)

    def call(self, made_from: Any, make: Any, *arguments: Place) -> KernelCall:
        if made_from not in self.kernels:
            made = make()
            self.kernels[made_from] = made if isinstance(made, Kernel) else Kernel(made)
            self.names[made_from] = f"pocketpipe_kernel{len(self.names)}"
        return KernelCall(self.names[made_from], arguments)

    def ends(self, operator: Operator) -> list[Place]:
        return [Place(name, 0) for name in (*operator.inputs, operator.output)]

    def shapes(self, operator: Operator) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return self.graph.tensors[operator.inputs[0]].shape, self.graph.tensors[operator.output].shape

    def finish(self, object_file: Path) -> IntegerProgram:
        kernels = {self.names[made_from]: kernel for made_from, kernel in self.kernels.items()}
        workspaces = write_object({name: each.function for name, each in kernels.items()}, self.cpu, object_file)
        parts_of = {name: each.parts(self.threads) for name, each in kernels.items()}
        offsets, scratch, arena = self.memory(workspaces, parts_of)
        plain = Emitter(self.graph, offsets)
        taken: dict[str, tuple[int, bool]] = {}
        parts: dict[int, int] = {}  # of the calls that are shared, by their place among all
        for index, (step, calls) in enumerate(self.steps):
            if not calls:
                plain.emit(step.operator)
            for each in calls:
                kernel = kernels[each.kernel]
                pointers = [*(_pointer(place, offsets) for place in each.arguments)]
                pointers += [f"arena + {place}" for place in scratch[index, each.kernel]]
                taken[each.kernel] = len(pointers), kernel.cut is not None
                statement = call(each.kernel, pointers, kernel.units, parts_of[each.kernel])
                if isinstance(statement, Shared):
                    parts[len(plain.calls)] = statement.parts
                plain.calls.append(statement.text if isinstance(statement, Shared) else statement)
        return IntegerProgram(
            calls=tuple(Shared(text, parts[i]) if i in parts else text for i, text in enumerate(plain.calls)),
            kernels=taken,
            weights=bytes(self.weights.content) + bytes(OVERHANG),
            plain=plain,
            arena=arena + OVERHANG,
            input=offsets[self.graph.input],
            output=offsets[self.graph.output],
        )

    def memory(
        self, workspaces: dict[str, tuple[int, ...]], parts: dict[str, int]
    ) -> tuple[dict[str, int], dict[tuple[int, str], list[str]], int]:
        """(offset of each tensor, C of that of the scratch memory of each step's kernels, bytes).

        Reshaped tensors share their place; the parts of a kernel have scratch memory each.
        """
        uses = [Use(step.inputs, step.output, isinstance(step.operator, Reshape)) for step, _ in self.steps]
        lifetimes = Lifetimes.of(uses, self.graph.input, self.graph.output)
        intervals = [
            Interval(name, self.graph.tensors[name].elements, *steps) for name, steps in lifetimes.steps.items()
        ]
        scratch: dict[tuple[int, str], list[str]] = {}
        further: dict[str, str] = {}  # from one part to the next
        for index, (_, calls) in enumerate(self.steps):
            for each in calls:
                sizes = workspaces[each.kernel]
                scratch[index, each.kernel] = [f"{index} {each.kernel} {i}" for i in range(len(sizes))]
                for name, size in zip(scratch[index, each.kernel], sizes, strict=True):
                    intervals.append(Interval(name, parts[each.kernel] * aligned(size), index, index))
                    further[name] = f" + part * {aligned(size)}" if parts[each.kernel] > 1 else ""
        places, arena = plan(intervals)
        offsets = {key: [f"{places[name]}{further[name]}" for name in names] for key, names in scratch.items()}
        return lifetimes.offsets(places), offsets, arena


def _key(requantization: Requantization) -> tuple[Any, ...]:
    limits = (requantization.zero_point, requantization.low, requantization.high)
    return (requantization.multiplier.tobytes(), requantization.shift.tobytes(), *limits)


def _pointer(place: Place, offsets: dict[str, int]) -> str:
    if place.tensor is None:
        return f"pocketpipe_weights + {place.offset}"
    return f"arena + {offsets[place.tensor] + place.offset}"
