"""SumOfProducts -> TIR: register tiles of pixels by channels over prepared inputs, requantized as they are stored.

A tile holds P neighbouring pixels times T registers of channels in int32 over the whole sum. Per group of summed
inputs it loads T registers of weights, spreads P groups of inputs over a register each, and multiplies and adds P * T
times (`depthwise` does otherwise). Bias, factor, zero point, activation and, if there is one, the addition of another
tensor are applied in registers (`finishing`): what leaves a tile is int8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from tvm import tirx
from tvm.tirx import Buffer, BufferLoad, BufferStore, PrimFunc, SeqStmt, Stmt

from pocketpipe.targets.lowering.integers.depthwise import DepthwiseSums
from pocketpipe.targets.lowering.integers.finishing import Finishing
from pocketpipe.targets.lowering.integers.geometry import SumOfProducts, rounded_up
from pocketpipe.targets.lowering.integers.preparing import Layout, Preparing
from pocketpipe.targets.lowering.integers.units import VectorUnit
from pocketpipe.targets.lowering.loops import Index, loop, sequence, unrolled, vector
from pocketpipe.targets.lowering.parts import Axis, Cut, Kernel, Part, evenly, numbers_of_first, work
from pocketpipe.targets.lowering.schedule import Order, Schedule

MOST_VECTORS = 4
MOST_PIXELS = 16


SMALLEST_SHARED = 800_000
"""Work (`parts.work`) from which on a kernel is cut for threads: to hand a part over takes a microsecond or so."""


def made(shape: SumOfProducts, unit: VectorUnit, threads: int, chosen: Schedule | None) -> Kernel:
    """The kernel of `shape`: by rule, or by the schedule that was chosen, cut for so many threads."""
    schedule = chosen or Schedule(*tile_sizes(shape, unit))
    cut = cut_for(shape, unit, schedule, threads)
    return Kernel(kernel(shape, unit, cut, schedule), cut)


def cut_for(shape: SumOfProducts, unit: VectorUnit, schedule: Schedule, threads: int) -> Cut | None:
    """How a kernel is cut for so many threads; None where that would not win anything."""
    made = shape.out_height * shape.out_width * shape.outputs
    moved = shape.height * shape.width * shape.channels + made
    if work(made * shape.read * shape.taps[0] * shape.taps[1], moved) < SMALLEST_SHARED:
        return None
    tiles = sum(run.repeats for run in runs(shape.registers(unit), schedule.vectors))
    return evenly({Axis.ROWS: shape.out_height, Axis.TILES: tiles, Axis.GROUPS: shape.groups}, threads)


def kernel(
    shape: SumOfProducts, unit: VectorUnit, cut: Cut | None = None, schedule: Schedule | None = None
) -> PrimFunc:
    """TIR; parameters: input, weight and parameters as `geometry` packs them, the tensor to add if any, output.

    If it is cut, the first unit to compute and one past the last follow. `schedule`: if not by rule.
    """
    kinds = {"x": "int8", "weight": "int8", "parameters": "int32", "other": "int8", "out": "int8"}
    names = [name for name in kinds if name != "other" or shape.adds]
    buffers = {name: tirx.decl_buffer((2**31 - 1,), kinds[name], name) for name in names}
    part = Part(cut)
    body = _Emitter(shape, unit, buffers, part, schedule or Schedule(*tile_sizes(shape, unit))).body()
    return PrimFunc([*buffers.values(), *part.parameters], body).with_attr("tirx.noalias", True)


def unit_for(shape: SumOfProducts, unit: VectorUnit) -> VectorUnit:
    """How a processor's registers are used: depthwise the widest that the layer can fill; else folded where half the
    channels of a register are all there are."""
    narrower, folded = unit.narrower, unit.folded
    if shape.depthwise:
        return unit_for(shape, narrower) if narrower and shape.made <= narrower.block else unit
    return folded if folded and shape.made <= folded.lanes else unit


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

    def __init__(
        self, shape: SumOfProducts, unit: VectorUnit, buffers: dict[str, Buffer], part: Part, schedule: Schedule
    ) -> None:
        self.shape, self.unit, self.buffers, self.part, self.schedule = shape, unit, buffers, part, schedule
        self.layout = Layout(shape, unit)
        self.scratch = tirx.decl_buffer((self.layout.elements,), unit.prepared, "scratch")
        self.whole = [vector(0, unit.sums)]
        self.registers = shape.registers(unit)
        self.finishing = Finishing(shape, unit, buffers)

    def body(self) -> Stmt:
        band = self.layout.band
        start, rows = self.part.range(Axis.ROWS, self.shape.out_height)
        preparing = Preparing(self.layout, self.buffers["x"], self.buffers["parameters"], self.scratch)

        def at(index: Index) -> Stmt:
            whole = isinstance(rows, int) and rows % band == 0
            made = band if whole else tirx.min(band, rows - index * band)
            return sequence([preparing.rows(start + index * band, made), self.rows(start + index * band, made)])

        bands = loop("band", (rows + band - 1) // band, at)
        return SeqStmt([tirx.AllocBuffer(self.scratch), bands])

    def rows(self, first: Index, made: Index) -> Stmt:
        """`made` rows of output from `first` on, in the order of the schedule."""
        runs_of_tiles = self.channel_runs(self.schedule.vectors)
        numbered = list(zip(numbers_of_first(runs_of_tiles), runs_of_tiles, strict=True))

        def tiles(number: int, registers: Run, of_tile: Callable[[Index], Stmt]) -> Stmt:
            return self.part.loop(Axis.TILES, "co", number, registers.repeats, of_tile)

        def of_group(group: Index) -> Stmt:
            if self.schedule.order is Order.ROWS:
                return loop("y", made, lambda row: sequence(
                    tiles(number, registers, partial(self.row, group, registers, first, row))
                    for number, registers in numbered
                ))  # fmt: skip
            return sequence(
                tiles(number, registers, lambda index, registers=registers: loop(  # type: ignore[misc]
                    "y", made, lambda row: self.row(group, registers, first, row, index)
                )) for number, registers in numbered
            )  # fmt: skip

        return self.part.loop(Axis.GROUPS, "group", 0, self.shape.groups, of_group)

    def row(self, group: Index, registers: Run, first: Index, row: Index, index: Index) -> Stmt:
        """All tiles of a row, of tile number `index` of these registers of channels."""
        start, whole = registers.start * self.unit.lanes, registers.width * self.unit.lanes
        used = whole if registers.repeats > 1 else min(whole, self.shape.made - start)

        def tile(run: Run, x: Index) -> Stmt:
            return self.tile(_Tile(
                group=group, register=registers.start + index * registers.width, registers=registers.width, used=used,
                y=first + row, row=row * self.shape.strides[0], x=run.start + x * run.width, pixels=run.width,
            ))  # fmt: skip

        columns = runs(self.shape.out_width, self.schedule.pixels)
        return sequence(loop("x", run.repeats, partial(tile, run)) for run in columns)

    def channel_runs(self, vectors: int) -> list[Run]:
        """Registers of channels in tiles; if the last is not full, the tile that holds it is a run of its own."""
        *most, end = runs(self.registers, vectors)
        return [*most, end] if self.shape.made == self.registers * self.unit.lanes else [*most, *end.with_last_apart()]

    def tile(self, tile: _Tile) -> Stmt:
        shape, lanes = self.shape, self.unit.lanes
        sums = [
            [tirx.decl_buffer((self.unit.sums,), "int32", f"sum{p}_{v}", scope="local") for v in range(tile.registers)]
            for p in range(tile.pixels)
        ]
        register = tile.group * self.registers + tile.register
        place = (tile.y * shape.out_width + tile.x) * shape.outputs + tile.group * shape.made + tile.register * lanes
        starts = [self.unit.begun(self.finishing.bias(register + v)) for v in range(tile.registers)]
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
        return sequence(
            unrolled("k", times, self.schedule.unroll, partial(steps, start, size))
            for start, times, size in parts
            if times
        )

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
