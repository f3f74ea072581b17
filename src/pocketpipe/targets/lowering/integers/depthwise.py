"""Sums of products where every channel is summed apart (depthwise): the statements of one tile; TIR.

An instruction sums `group` neighbouring elements, but here they are of different channels. So the bytes of `group` taps
are interleaved in registers, in the way that lets each register be reused by every pixel that reads the column; the
channels come to lie in another order, in which the constants are packed (`geometry.order_in_block`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx import Buffer, BufferLoad, BufferStore, Stmt

from pocketpipe.targets.lowering.integers.preparing import Layout
from pocketpipe.targets.lowering.integers.sections import Section
from pocketpipe.targets.lowering.integers.units import VectorUnit
from pocketpipe.targets.lowering.loops import Index, of, vector


@dataclass(frozen=True)
class TapGroup:
    """Taps that one instruction sums: where the first of them reads, and how far the others lie from it."""

    number: int
    """In the order of the packed weights."""
    row: int
    column: int
    steps: tuple[int, ...]
    """Elements from the first tap's input to each one's; the last one's again where there are too few."""


def tap_groups(layout: Layout, group: int) -> list[TapGroup]:
    """All taps of a depthwise kernel, `group` at a time."""
    shape = layout.shape
    (rows, columns), (down, right) = shape.taps, shape.dilations
    step, length = (down * layout.row, rows) if shape.grouped_down else (right * layout.pixel, columns)

    def steps(first: int) -> tuple[int, ...]:
        return tuple(step * (min(first + i, length - 1) - first) for i in range(group))

    if shape.grouped_down:
        places = [(y, x, steps(y)) for y in range(0, rows, group) for x in range(columns)]
    else:
        places = [(y, x, steps(x)) for y in range(rows) for x in range(0, columns, group)]
    return [TapGroup(number, y * down, x * right, apart) for number, (y, x, apart) in enumerate(places)]


@dataclass(frozen=True)
class DepthwiseSums:
    """Statements that add all products to the sums of a tile."""

    section: Section
    layout: Layout
    scratch: Buffer
    weight: Buffer

    @property
    def unit(self) -> VectorUnit:
        """Its registers."""
        return self.section.unit

    def statements(self, sums: Sequence[Sequence[Buffer]], block: Index, row: Index, x: Index) -> Iterator[Stmt]:
        """`sums`: by pixel from column `x` on, and register of block `block`; `row`: the first that is read."""
        groups = tap_groups(self.layout, self.unit.group)
        stride = self.layout.shape.strides[1]
        readers: dict[tuple[int, int, tuple[int, ...]], list[tuple[int, TapGroup]]] = {}
        for taps in groups:
            for p in range(len(sums)):
                readers.setdefault((taps.row, p * stride + taps.column, taps.steps), []).append((p, taps))
        for (down, column, steps), reading in sorted(readers.items()):
            start = (row + down) * self.layout.row + (x * stride + column) * self.layout.pixel
            start = start + self.section.first + block * self.unit.block
            loaded = [tirx.Var("row", of(self.unit.prepared, self.unit.block)) for _ in dict.fromkeys(steps)]
            for variable, step in zip(loaded, dict.fromkeys(steps), strict=True):
                value = BufferLoad(self.scratch, [vector(start + step, self.unit.block)])
                yield tirx.Bind(variable, value)
            filled = [loaded[min(i, len(loaded) - 1)] for i in range(self.unit.group)]
            inputs = [tirx.Var("x", self.unit.register()) for _ in filled]
            for variable, value in zip(inputs, interleaved(filled, self.unit), strict=True):
                yield tirx.Bind(variable, tirx.reinterpret(self.unit.register(), value))
            for p, taps in reading:
                yield from self.multiply_add(sums[p], inputs, block * len(groups) + taps.number)

    def multiply_add(self, sums: Sequence[Buffer], inputs: Sequence[Any], taps: Index) -> Iterator[Stmt]:
        """One group of taps of one pixel."""
        size = self.unit.lanes * self.unit.group
        whole = [vector(0, self.unit.lanes)]
        for j, (total, x) in enumerate(zip(sums, inputs, strict=True)):
            place = self.section.weights + (taps * self.unit.group + j) * size
            weight = self.unit.weights(BufferLoad(self.weight, [vector(place, size)]))
            yield BufferStore(total, self.unit.multiply_add(BufferLoad(total, whole), x, weight), whole)


def interleaved(rows: Sequence[Any], unit: VectorUnit) -> list[Any]:
    """Registers in which the elements of each channel lie side by side, one of each row.

    Within lanes of 128 bits, as `punpckl`, `punpckh`, `zip1` and `zip2` do it: pairs first, then pairs of pairs.
    """
    registers, size = list(rows), 1
    while size < unit.group:
        pairs = [(registers[i], registers[i + 1]) for i in range(0, len(registers), 2)]
        registers = [_unpacked(*pair, size, upper, unit) for pair in pairs for upper in (False, True)]
        if 2 * size < unit.group:
            registers = [registers[i] for i in (0, 2, 1, 3)]
        size *= 2
    return registers


def _unpacked(left: Any, right: Any, size: int, upper: bool, unit: VectorUnit) -> Any:
    """Runs of `size` elements of the lower or upper half of each 128 bits, from both in turn."""
    lane = 4 * unit.group
    half = lane // 2 * upper
    order = [
        side * unit.block + start + half + place + i
        for start in range(0, unit.block, lane)
        for place in range(0, lane // 2, size)
        for side in (0, 1)
        for i in range(size)
    ]
    return tirx.Shuffle([left, right], order)
