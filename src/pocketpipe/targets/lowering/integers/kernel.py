"""SumOfProducts -> TIR: register tiles of pixels by channels over prepared inputs, requantized as they are stored.

A tile holds P neighbouring pixels times T registers of channels in int32 over the whole sum. Per group of summed
inputs it loads T registers of weights, spreads P groups of inputs over a register each, and multiplies and adds P * T
times (`depthwise` does otherwise). Bias, factor, zero point, activation and, if there is one, the addition of another
tensor are applied in registers (`finishing`): what leaves a tile is int8.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from tvm import tirx
from tvm.tirx import Buffer, BufferLoad, BufferStore, PrimFunc, SeqStmt, Stmt

from pocketpipe.targets.lowering.integers.depthwise import DepthwiseSums
from pocketpipe.targets.lowering.integers.finishing import Finishing
from pocketpipe.targets.lowering.integers.geometry import SumOfProducts, rounded_up
from pocketpipe.targets.lowering.integers.preparing import Layout, Preparing
from pocketpipe.targets.lowering.integers.units import VectorUnit
from pocketpipe.targets.lowering.loops import Index, loop, sequence, vector

MOST_VECTORS = 4
MOST_PIXELS = 16


def kernel(shape: SumOfProducts, unit: VectorUnit) -> PrimFunc:
    """TIR; parameters: input, weight and parameters as `geometry` packs them, the tensor to add if any, output."""
    kinds = {"x": "int8", "weight": "int8", "parameters": "int32", "other": "int8", "out": "int8"}
    names = [name for name in kinds if name != "other" or shape.adds]
    buffers = {name: tirx.decl_buffer((2**31 - 1,), kinds[name], name) for name in names}
    body = _Emitter(shape, unit, buffers).body()
    return PrimFunc(list(buffers.values()), body).with_attr("tirx.noalias", True)


def unit_for(shape: SumOfProducts, unit: VectorUnit) -> VectorUnit:
    """The widest registers of a processor that the layer can fill."""
    narrower = unit.narrower
    return unit_for(shape, narrower) if shape.depthwise and narrower and shape.made <= narrower.block else unit


@dataclass(frozen=True)
class Run:
    """`repeats` tiles of `width` from `start`."""

    start: int
    repeats: int
    width: int

    def with_last_apart(self) -> list[Run]:
        """The same tiles, the last one a run of its own."""
        last = Run(self.start + (self.repeats - 1) * self.width, 1, self.width)
        return [Run(self.start, self.repeats - 1, self.width), last] if self.repeats > 1 else [last]


def runs(count: int, most: int) -> list[Run]:
    """Cover `count` with tiles of one width, at most `most`, and what is left with one more.

    >>> runs(14, 8), runs(4, 3), runs(5, 2)
    ([Run(start=0, repeats=2, width=7)], [Run(start=0, repeats=2, width=2)],
     [Run(start=0, repeats=2, width=2), Run(start=4, repeats=1, width=1)])
    """
    width = rounded_up(count, -(-count // most)) // -(-count // most)
    repeats, left = divmod(count, width)
    return [Run(0, repeats, width), *([Run(repeats * width, 1, left)] if left else [])]


def tile_sizes(shape: SumOfProducts, unit: VectorUnit) -> tuple[int, int]:
    """(pixels, registers of channels) of a tile at most."""
    if shape.depthwise:
        return min(shape.out_width, MOST_PIXELS, max(1, unit.accumulators // unit.group)), unit.group
    registers = shape.registers(unit)
    vectors = min(registers, MOST_VECTORS, max(1, unit.accumulators // min(shape.out_width, 8)))
    vectors = runs(registers, vectors)[0].width
    return min(shape.out_width, MOST_PIXELS, max(1, unit.accumulators // vectors)), vectors


@dataclass(frozen=True)
class _Tile:
    """Pixels of a row times registers of channels: the first of each, and how many."""

    group: Index
    register: Index
    registers: int
    y: Index
    """Row of the output."""
    row: Index
    """First row that it reads, in the band."""
    x: Index
    pixels: int
    used: int
    """Channels of a pixel that are stored."""


class _Emitter:
    """Statements of one kernel."""

    def __init__(self, shape: SumOfProducts, unit: VectorUnit, buffers: dict[str, Buffer]) -> None:
        self.shape, self.unit, self.buffers = shape, unit, buffers
        self.layout = Layout(shape, unit)
        self.scratch = tirx.decl_buffer((self.layout.elements,), unit.prepared, "scratch")
        self.whole = [vector(0, unit.lanes)]
        self.registers = shape.registers(unit)
        self.finishing = Finishing(shape, unit, buffers)

    def body(self) -> Stmt:
        shape, band = self.shape, self.layout.band
        preparing = Preparing(self.layout, self.buffers["x"], self.buffers["parameters"], self.scratch)

        def at(index: Index) -> Stmt:
            first = index * band
            made = band if shape.out_height % band == 0 else tirx.min(band, shape.out_height - first)
            return sequence([preparing.rows(first, made), self.rows(first, made)])

        bands = loop("band", -(-shape.out_height // band), at)
        return SeqStmt([tirx.AllocBuffer(self.scratch), bands])

    def rows(self, first: Index, made: Index) -> Stmt:
        """Rows of output from `first` on: channels outside, so that their weights stay in the cache."""
        pixels, vectors = tile_sizes(self.shape, self.unit)
        columns = runs(self.shape.out_width, pixels)

        def channels_of(group: Index) -> Stmt:
            return sequence(self.rows_of(group, part, columns, first, made) for part in self.channel_runs(vectors))

        return loop("group", self.shape.groups, channels_of)

    def rows_of(self, group: Index, registers: Run, columns: list[Run], first: Index, made: Index) -> Stmt:
        """All tiles of these registers of channels."""
        start, whole = registers.start * self.unit.lanes, registers.width * self.unit.lanes
        used = whole if registers.repeats > 1 else min(whole, self.shape.made - start)

        def tile(index: Index, row: Index, run: Run, x: Index) -> Stmt:
            return self.tile(_Tile(
                group=group, register=registers.start + index * registers.width, registers=registers.width, used=used,
                y=first + row, row=row * self.shape.strides[0], x=run.start + x * run.width, pixels=run.width,
            ))  # fmt: skip

        def row_of(index: Index, row: Index) -> Stmt:
            return sequence(loop("x", run.repeats, partial(tile, index, row, run)) for run in columns)

        return loop("co", registers.repeats, lambda index: loop("y", made, lambda row: row_of(index, row)))

    def channel_runs(self, vectors: int) -> list[Run]:
        """Registers of channels in tiles; if the last is not full, the tile that holds it is a run of its own."""
        *most, end = runs(self.registers, vectors)
        return [*most, end] if self.shape.made == self.registers * self.unit.lanes else [*most, *end.with_last_apart()]

    def tile(self, tile: _Tile) -> Stmt:
        shape, lanes = self.shape, self.unit.lanes
        sums = [
            [tirx.decl_buffer((lanes,), "int32", f"sum{p}_{v}", scope="local") for v in range(tile.registers)]
            for p in range(tile.pixels)
        ]
        register = tile.group * self.registers + tile.register
        place = (tile.y * shape.out_width + tile.x) * shape.outputs + tile.group * shape.made + tile.register * lanes
        starts = [self.finishing.bias(register + v) for v in range(tile.registers)]
        return SeqStmt(
            [
                *(tirx.AllocBuffer(buffer) for pixel in sums for buffer in pixel),
                *(
                    BufferStore(total, start, self.whole)
                    for row in sums
                    for total, start in zip(row, starts, strict=True)
                ),
                self.sum(tile, sums),
                *self.finishing.statements(sums, register, place, tile.used),
            ]
        )

    def sum(self, tile: _Tile, sums: list[list[Buffer]]) -> Stmt:
        """Over tap rows, then over tap columns and inputs: in one loop where they lie side by side."""
        shape, layout, group = self.shape, self.layout, self.unit.group
        if shape.depthwise:
            depthwise = DepthwiseSums(shape, self.unit, layout, self.scratch, self.buffers["weight"])
            return sequence(depthwise.statements(sums, tirx.floordiv(tile.register, group), tile.row, tile.x))
        inner = layout.read // group

        def tap(ky: Index, kx: Index, steps: int) -> Stmt:
            row = (tile.row + ky * shape.dilations[0]) * layout.row
            start = row + kx * shape.dilations[1] * layout.pixel + tile.group * layout.read
            places = [start + (tile.x + p) * shape.strides[1] * layout.pixel for p in range(tile.pixels)]
            return self.along(tile, sums, places, ky * layout.steps + kx * inner, steps)

        if shape.in_one_run:
            return loop("ky", shape.taps[0], lambda ky: tap(ky, 0, layout.steps))
        return loop("ky", shape.taps[0], lambda ky: loop("kx", shape.taps[1], lambda kx: tap(ky, kx, inner)))

    def along(self, tile: _Tile, sums: list[list[Buffer]], places: list[Index], first: Index, count: int) -> Stmt:
        """`count` steps from step `first`, whose inputs lie side by side from `places` on: by chunks, then singly."""
        whole, left = divmod(count, self.unit.chunk)

        def steps(start: int, size: int, index: Index) -> Stmt:
            step = start + index * size
            at = [place + step * self.unit.group for place in places]
            return sequence(self.multiply_add(tile, sums, at, first + step, size))

        parts = ((0, whole, self.unit.chunk), (whole * self.unit.chunk, left, 1))
        return sequence(loop("k", times, partial(steps, start, size)) for start, times, size in parts if times)

    def multiply_add(
        self, tile: _Tile, sums: list[list[Buffer]], places: list[Index], step: Index, size: int
    ) -> Iterator[Stmt]:
        """`size` steps of every sum of the tile; `places`: of the inputs of each pixel."""
        unit = self.unit
        register = unit.lanes * unit.group
        steps = self.shape.taps[0] * self.layout.steps
        weights = [tirx.Var(f"w{v}", unit.register(size)) for v in range(tile.registers)]
        for v, weight in enumerate(weights):
            place = ((tile.group * self.registers + tile.register + v) * steps + step) * register
            loaded = BufferLoad(self.buffers["weight"], [vector(place, size * register)])
            yield tirx.Bind(weight, unit.weights(loaded))
        for p, place in enumerate(places):
            words = unit.words(BufferLoad(self.scratch, [vector(place, size * unit.group)]))
            inputs = tirx.Var(f"x{p}", words.ty.dtype)
            yield tirx.Bind(inputs, words)
            for index in range(size):
                x = unit.in_every_lane(inputs, index)
                for v, weight in enumerate(weights):
                    total = BufferLoad(sums[p][v], self.whole)
                    yield BufferStore(sums[p][v], unit.multiply_add(total, x, unit.part(weight, index)), self.whole)
