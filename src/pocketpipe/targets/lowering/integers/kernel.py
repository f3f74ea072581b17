"""SumOfProducts -> TIR: register tiles of pixels by channels over prepared inputs, requantized as they are stored.

A tile holds P neighbouring pixels times T registers of channels in int32 over the whole sum. Per group of summed
inputs it loads T registers of weights, spreads P groups of inputs over a register each, and multiplies and adds P * T
times. Bias, factor, zero point, activation and, if there is one, the addition of another tensor are applied in
registers: what leaves a tile is int8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from tvm import tirx
from tvm.tirx import Buffer, BufferLoad, BufferStore, PrimFunc, SeqStmt, Stmt

from pocketpipe.targets.lowering.integers import geometry
from pocketpipe.targets.lowering.integers.geometry import HEAD, SumOfProducts, rounded_up
from pocketpipe.targets.lowering.integers.preparing import Layout, Preparing
from pocketpipe.targets.lowering.integers.units import VectorUnit
from pocketpipe.targets.lowering.loops import Index, constant, loop, of, sequence, spread, unrolled, vector
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
    tiles = sum(run.repeats for run in runs(-(-shape.made // unit.lanes), schedule.vectors))
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
    registers = -(-shape.made // unit.lanes)
    vectors = min(registers, MOST_VECTORS, max(1, unit.accumulators // min(shape.out_width, 8)))
    vectors = runs(registers, vectors)[0].width
    return min(shape.out_width, MOST_PIXELS, max(1, unit.accumulators // vectors)), vectors


@dataclass(frozen=True)
class _Tile:
    """Pixels of a row times registers of channels: the first of each, and how many."""

    group: Index
    block: Index
    blocks: int
    y: Index
    """Row of the output."""
    row: Index
    """First row that it reads, in the band."""
    x: Index
    pixels: int
    last: int
    """Channels of the last register that there are."""

    def used(self, register: int, lanes: int) -> int:
        """Lanes of a register that are stored."""
        return self.last if register == self.blocks - 1 else lanes


class _Emitter:
    """Statements of one kernel."""

    def __init__(
        self, shape: SumOfProducts, unit: VectorUnit, buffers: dict[str, Buffer], part: Part, schedule: Schedule
    ) -> None:
        self.shape, self.unit, self.buffers, self.part, self.schedule = shape, unit, buffers, part, schedule
        self.layout = Layout(shape, unit)
        self.scratch = tirx.decl_buffer((self.layout.elements,), unit.prepared, "scratch")
        self.whole = [vector(0, unit.lanes)]
        self.blocks = -(-shape.made // unit.lanes)
        self.last = shape.made - (self.blocks - 1) * unit.lanes
        """Channels in the last register."""

    def body(self) -> Stmt:
        band = self.layout.band
        start, rows = self.part.range(Axis.ROWS, self.shape.out_height)
        preparing = Preparing(self.layout, self.buffers["x"], self.buffers["parameters"], self.scratch)

        def at(index: Index) -> Stmt:
            whole = isinstance(rows, int) and rows % band == 0
            made = band if whole else tirx.min(band, rows - index * band)
            return sequence([preparing.rows(start + index * band, made), self.rows(start + index * band, made)])

        bands = loop("band", (rows + band - 1) // band, at)
        return SeqStmt([*(tirx.AllocBuffer(buffer) for buffer in preparing.buffers), bands])

    def rows(self, first: Index, made: Index) -> Stmt:
        """`made` rows of output from `first` on, in the order of the schedule."""
        runs_of_tiles = self.channel_runs(self.schedule.vectors)
        numbered = list(zip(numbers_of_first(runs_of_tiles), runs_of_tiles, strict=True))

        def tiles(number: int, blocks: Run, of_tile: Callable[[Index], Stmt]) -> Stmt:
            return self.part.loop(Axis.TILES, "co", number, blocks.repeats, of_tile)

        def of_group(group: Index) -> Stmt:
            if self.schedule.order is Order.ROWS:
                return loop("y", made, lambda row: sequence(
                    tiles(number, blocks, partial(self.row, group, blocks, first, row))
                    for number, blocks in numbered
                ))  # fmt: skip
            return sequence(
                tiles(number, blocks, lambda block, blocks=blocks: loop(  # type: ignore[misc]
                    "y", made, lambda row: self.row(group, blocks, first, row, block)
                )) for number, blocks in numbered
            )  # fmt: skip

        return self.part.loop(Axis.GROUPS, "group", 0, self.shape.groups, of_group)

    def row(self, group: Index, blocks: Run, first: Index, row: Index, block: Index) -> Stmt:
        """All tiles of a row, of tile number `block` of these registers of channels."""
        ends = blocks.start + blocks.repeats * blocks.width == self.blocks
        last = self.last if ends else self.unit.lanes

        def tile(run: Run, x: Index) -> Stmt:
            return self.tile(_Tile(
                group=group, block=blocks.start + block * blocks.width, blocks=blocks.width, last=last,
                y=first + row, row=row * self.shape.strides[0], x=run.start + x * run.width, pixels=run.width,
            ))  # fmt: skip

        columns = runs(self.shape.out_width, self.schedule.pixels)
        return sequence(loop("x", run.repeats, partial(tile, run)) for run in columns)

    def channel_runs(self, vectors: int) -> list[Run]:
        """Registers of channels in tiles; if the last is not full, the tile that holds it is a run of its own."""
        *most, end = runs(self.blocks, vectors)
        return [*most, end] if self.last == self.unit.lanes else [*most, *end.with_last_apart()]

    def tile(self, tile: _Tile) -> Stmt:
        lanes = self.unit.lanes
        sums = [
            [tirx.decl_buffer((lanes,), "int32", f"sum{p}_{v}", scope="local") for v in range(tile.blocks)]
            for p in range(tile.pixels)
        ]
        return SeqStmt(
            [
                *(tirx.AllocBuffer(buffer) for row in sums for buffer in row),
                *(BufferStore(row[v], self.column(0, tile, v), self.whole) for row in sums for v in range(tile.blocks)),
                self.sum(tile, sums),
                *self.store(tile, sums),
            ]
        )

    def column(self, number: int, tile: _Tile, register: int) -> Any:
        """Bias (0), multiplier (1) or shift (2) of a register of channels."""
        across = self.shape.groups * self.blocks
        place = HEAD + (number * across + tile.group * self.blocks + tile.block + register) * self.unit.lanes
        return BufferLoad(self.buffers["parameters"], [vector(place, self.unit.lanes)])

    def sum(self, tile: _Tile, sums: list[list[Buffer]]) -> Stmt:
        """Over tap rows, then over tap columns and inputs: in one loop where they lie side by side."""
        shape, layout, group = self.shape, self.layout, self.unit.group
        inner = 1 if shape.depthwise else layout.read // group
        across = layout.taps_across // (group if shape.depthwise else 1)
        one_loop = not shape.depthwise and shape.groups == 1 and shape.dilations[1] == 1

        def tap(ky: Index, kx: Index, steps: int) -> Stmt:
            row = (tile.row + ky * shape.dilations[0]) * layout.row
            reach = shape.dilations[1] * (group if shape.depthwise else 1)
            start = row + kx * reach * layout.pixel + tile.group * layout.read * (0 if shape.depthwise else 1)
            places = [start + (tile.x + p) * shape.strides[1] * layout.pixel for p in range(tile.pixels)]
            return self.along(tile, sums, places, (ky * across + kx) * inner, steps)

        if one_loop:
            return loop("ky", shape.taps[0], lambda ky: tap(ky, 0, across * inner))
        return loop("ky", shape.taps[0], lambda ky: loop("kx", across, lambda kx: tap(ky, kx, inner)))

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
        unit, shape, layout = self.unit, self.shape, self.layout
        register = unit.lanes * unit.group
        inner = 1 if shape.depthwise else layout.read // unit.group
        steps = shape.taps[0] * (layout.taps_across // (unit.group if shape.depthwise else 1)) * inner
        weights = [tirx.Var(f"w{v}", unit.register(size)) for v in range(tile.blocks)]
        for v, weight in enumerate(weights):
            place = ((tile.group * self.blocks + tile.block + v) * steps + step) * register
            loaded = BufferLoad(self.buffers["weight"], [vector(place, size * register)])
            yield tirx.Bind(weight, unit.weights(loaded))
        for p, place in enumerate(places):
            if not shape.depthwise:
                words = unit.words(BufferLoad(self.scratch, [vector(place, size * unit.group)]))
                inputs = tirx.Var(f"x{p}", words.ty.dtype)
                yield tirx.Bind(inputs, words)
            for index in range(size):
                for v, weight in enumerate(weights):
                    if shape.depthwise:
                        lanes = vector(place + (tile.block + v) * register, register)
                        x = tirx.reinterpret(unit.register(), BufferLoad(self.scratch, [lanes]))
                    else:
                        x = unit.in_every_lane(inputs, index)
                    total = BufferLoad(sums[p][v], self.whole)
                    yield BufferStore(sums[p][v], unit.multiply_add(total, x, unit.part(weight, index)), self.whole)

    def store(self, tile: _Tile, sums: list[list[Buffer]]) -> Iterator[Stmt]:
        """Finish the sums and write them out."""
        shape, lanes = self.shape, self.unit.lanes
        for v in range(tile.blocks):
            factors = [tirx.Var(name, of("int32", lanes)) for name in ("multiplier", "shift")]
            yield from (tirx.Bind(factor, self.column(1 + i, tile, v)) for i, factor in enumerate(factors))
            for p in range(tile.pixels):
                pixel = (tile.y * shape.out_width + tile.x + p) * shape.outputs
                place = pixel + tile.group * shape.made + (tile.block + v) * lanes
                value = self.requantized(BufferLoad(sums[p][v], self.whole), *factors)
                if shape.adds:
                    value = self.added(value, place, tile.used(v, lanes))
                yield self.stored(value, place, tile.used(v, lanes))

    def requantized(self, total: Any, multiplier: Any, shift: Any) -> Any:
        """int32 lanes of what fits int8: the one rounding rule, the zero point, the range."""
        lanes = self.unit.lanes
        zero_point, low, high = (self.head(n) for n in (geometry.ZERO_POINT, geometry.LOW, geometry.HIGH))
        if not self.shape.wide:
            return _clipped(self.unit.rescale(total, multiplier, shift) + zero_point, low, high)
        wide = of("int64", lanes)
        factor, places = tirx.Cast(wide, multiplier), tirx.Cast(wide, shift)
        half = constant(1, lanes, "int64") << (places - constant(1, lanes, "int64"))
        rounded = (tirx.Cast(wide, total) * factor + half) >> places
        bounds = (tirx.Cast(wide, bound - zero_point) for bound in (low, high))
        return tirx.Cast(of("int32", lanes), _clipped(rounded, *bounds)) + zero_point

    def added(self, value: Any, place: Index, used: int) -> Any:
        """Plus the other tensor, each by its factor, rounded once."""
        own, other, rest, shift = (self.head(n) for n in range(geometry.OWN, geometry.SHIFT + 1))
        zero_point, low, high = (self.head(n) for n in range(geometry.SUM_ZERO_POINT, geometry.SUM_HIGH + 1))
        loaded = tirx.Cast(of("int32", self.unit.lanes), self.loaded(place, used))
        return _clipped(((value * own + loaded * other + rest) >> shift) + zero_point, low, high)

    def loaded(self, place: Index, used: int) -> Any:
        """A register of the other tensor; where it ends within, what is missing is anything."""
        lanes, other = self.unit.lanes, self.buffers["other"]
        if used == lanes:
            return BufferLoad(other, [vector(place, lanes)])
        part = BufferLoad(other, [vector(place, used)])
        again = -(-lanes // used)  # a shuffle takes no more lanes than it is given
        return tirx.Shuffle([part] * again, list(range(lanes))) if used > 1 else spread(part, lanes)

    def stored(self, value: Any, place: Index, used: int) -> Stmt:
        lanes = self.unit.lanes
        narrow = tirx.Cast(of("int8", lanes), value)
        if used < lanes:
            narrow = tirx.Shuffle([narrow], list(range(used)))
        return BufferStore(self.buffers["out"], narrow, [vector(place, used)])

    def head(self, number: int) -> Any:
        """One of the layer's own numbers, in every lane."""
        return spread(BufferLoad(self.buffers["parameters"], [number]), self.unit.lanes)


def _clipped(value: Any, low: Any, high: Any) -> Any:
    return tirx.Max(tirx.Min(value, high), low)
