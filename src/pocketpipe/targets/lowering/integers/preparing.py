"""Inputs as a kernel wants them: padded, widened or made unsigned, filled up to whole groups.

A band of rows is copied into scratch memory before its sums are taken. That costs one pass over the input, and saves
every kernel from asking where an image ends and how many channels it has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from tvm import tirx
from tvm.tirx import Buffer, BufferLoad, BufferStore, Stmt

from pocketpipe.targets.lowering.integers.geometry import PADDING, SumOfProducts, rounded_up
from pocketpipe.targets.lowering.integers.units import VectorUnit
from pocketpipe.targets.lowering.loops import Index, constant, loop, of, sequence, spread, vector

BAND_BYTES = 1 << 16
"""Scratch memory that a band may take: with a tile's weights beside it, it stays in the cache next to the core."""

WIDEST = 64
"""Bytes that are moved at once; compilers cut them into registers."""

OVERHANG = WIDEST
"""Elements behind the scratch memory that may be read and written."""


@dataclass(frozen=True)
class Layout:
    """Where prepared inputs lie in scratch memory: rows of pixels, a pixel of `pixel` elements."""

    shape: SumOfProducts
    unit: VectorUnit

    @property
    def read(self) -> int:
        """Elements that one sum reads at a pixel; a whole number of groups, where the next it reads lie elsewhere."""
        return self.shape.read if self.shape.in_one_run else rounded_up(self.shape.read, self.unit.group)

    @property
    def pixel(self) -> int:
        """Elements of a pixel."""
        return self.shape.made if self.shape.depthwise else self.shape.groups * self.read

    @property
    def columns(self) -> int:
        """Pixels of a row that are read."""
        shape = self.shape
        return (shape.out_width - 1) * shape.strides[1] + (shape.taps[1] - 1) * shape.dilations[1] + 1

    @property
    def row(self) -> int:
        """Elements of a row."""
        return self.columns * self.pixel

    def rows(self, made: Index) -> Index:
        """Rows that are read for `made` lines of output."""
        shape = self.shape
        return (made * shape.rows_of_line - 1) * shape.strides[0] + (shape.taps[0] - 1) * shape.dilations[0] + 1

    @property
    def band(self) -> int:
        """Lines of output for which inputs are prepared at once."""
        size = 2 if self.unit.prepared == "int16" else 1
        fitting = [n for n in range(1, self.shape.lines[0] + 1) if self.rows(n) * self.row * size <= BAND_BYTES]
        return max(fitting, default=1)

    @property
    def evenly_apart(self) -> bool:
        """Whether what neighbours in a line read first is always as far apart."""
        shape = self.shape
        next_row = shape.strides[0] * self.row
        return shape.rows_of_line == 1 or next_row == shape.out_width * shape.strides[1] * self.pixel

    def read_first(self, line: Index, x: Index) -> Index:
        """Where pixel `x` of a line of the band begins to read; `x` is a number if they are not `evenly_apart`."""
        shape = self.shape
        start = line * shape.rows_of_line * shape.strides[0] * self.row
        row, column = (0, x) if self.evenly_apart else divmod(x, shape.out_width)
        return start + row * shape.strides[0] * self.row + column * shape.strides[1] * self.pixel

    @property
    def elements(self) -> int:
        """Of the scratch memory."""
        return int(self.rows(self.band)) * self.row + OVERHANG


class Preparing:
    """Statements that fill the scratch memory `to` from the input `x`."""

    def __init__(self, layout: Layout, x: Buffer, parameters: Buffer, to: Buffer) -> None:
        self.layout, self.x, self.parameters, self.to = layout, x, parameters, to

    def rows(self, first: Index, made: Index) -> Stmt:
        """Prepare what `made` lines of output from line `first` read."""
        layout, shape = self.layout, self.layout.shape
        above = first * shape.rows_of_line * shape.strides[0] - shape.before[0]

        def row(index: Index) -> Stmt:
            source, start = above + index, index * layout.row
            whole = self.whole_row(source, start)
            if shape.before[0] or self.reads_below:
                inside = tirx.all(source >= 0, source < shape.height)
                whole = tirx.IfThenElse(inside, whole, self.fill(start, layout.columns))
            return whole

        return loop("row", layout.rows(made), row)

    @property
    def reads_below(self) -> bool:
        """Whether rows below the image are read."""
        shape = self.layout.shape
        return int(self.layout.rows(shape.lines[0])) - shape.before[0] > shape.height

    def whole_row(self, source: Index, start: Index) -> Stmt:
        """Row `source` of the input into the line from `start`, with what is padded to its left and right."""
        layout, width = self.layout, self.layout.shape.width
        left = min(layout.shape.before[1], layout.columns)
        taken = min(width, layout.columns - left)
        right = layout.columns - left - taken
        return sequence(
            [
                *([self.fill(start, left)] if left else []),
                self.copy(source * width, start + left * layout.pixel, taken),
                *([self.fill(start + (left + taken) * layout.pixel, right)] if right else []),
            ]
        )

    def fill(self, start: Index, pixels: int) -> Stmt:
        """Padding."""
        value = BufferLoad(self.parameters, [PADDING])

        def at(place: Index, lanes: int) -> Stmt:
            stored = self.converted(spread(tirx.Cast("int8", value), lanes), lanes)
            return BufferStore(self.to, stored, [vector(start + place, lanes)])

        return over(pixels * self.layout.pixel, at)

    def copy(self, source: Index, start: Index, pixels: int) -> Stmt:
        """Pixels of the input from pixel `source` on."""
        shape = self.layout.shape
        runs = 1 if shape.depthwise else shape.groups  # of channels that stay together
        run = shape.channels // runs
        pixel = self.layout.pixel
        room = pixel // runs
        if run == room:
            return self.copy_run(source * shape.channels, start, pixels * pixel)
        return loop("pixel", pixels, lambda i: loop("run", runs, lambda j: self.copy_run(
            (source + i) * shape.channels + j * run, start + i * pixel + j * room, run
        )))  # fmt: skip

    def copy_run(self, source: Index, start: Index, count: int) -> Stmt:
        """Elements that lie side by side on both sides. What fills a group up meets weights of zero: left as it is."""

        def at(place: Index, lanes: int) -> Stmt:
            value = BufferLoad(self.x, [vector(source + place, lanes)])
            return BufferStore(self.to, self.converted(value, lanes), [vector(start + place, lanes)])

        return over(count, at)

    def converted(self, value: Any, lanes: int) -> Any:
        """int8 as the unit wants it."""
        match self.layout.unit.prepared:
            case "int8":
                return value
            case "uint8":  # plus 128
                unsigned = tirx.reinterpret(of("uint8", lanes), value)
                return tirx.bitwise_xor(unsigned, constant(128, lanes, "uint8"))
            case wider:
                return tirx.Cast(of(wider, lanes), value)


def over(count: int, at: Callable[[Index, int], Stmt]) -> Stmt:
    """`at(place, lanes)` until `count` elements are done, in vectors as wide as is left to do."""
    return sequence(
        loop("i", repeats, partial(_strided, at, start, lanes)) for start, repeats, lanes in _vectors(count)
    )


def _vectors(count: int) -> Iterator[tuple[int, int, int]]:
    """(first element, how many vectors, lanes of each)."""
    place, lanes = 0, WIDEST
    while place < count:
        repeats = (count - place) // lanes
        if repeats:
            yield place, repeats, lanes
        place += repeats * lanes
        lanes //= 2


def _strided(at: Callable[[Index, int], Stmt], start: int, lanes: int, i: Index) -> Stmt:
    return at(start + i * lanes, lanes)
