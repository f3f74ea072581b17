"""Nest -> TIR: register tiles of output pixels by output channels, vectors along channels, no padding in memory.

A tile holds P neighbouring pixels of a line (a row, or several of a narrow image: `Nest.lines`) times T vectors of
channels in registers over the whole sum. Per summed channel it loads T weight vectors, broadcasts P inputs and does P*T
multiply-adds; where the processor multiplies by one element of a register, inputs of several channels are loaded
together. What lies outside the input is left out when the code is made (columns, rasters) or by the bounds of the loop
over kernel rows: nothing is copied to be padded. Channel counts that are no multiple of the vector end in a shorter
vector. Constant weights lie in the order in which they are read (`packing`).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any

from tvm import tirx
from tvm.tirx import Buffer, BufferLoad, BufferStore, PrimFunc, SeqStmt, Stmt

from pocketpipe.targets.lowering.cpu import Cpu
from pocketpipe.targets.lowering.fetching import fetched_ahead
from pocketpipe.targets.lowering.loops import Index, constant, in_chunks, loop, of, sequence, spread, vector
from pocketpipe.targets.lowering.nest import Apply, EpilogueStep, Nest, Spread, Window
from pocketpipe.targets.lowering.packing import packed_before, packed_size
from pocketpipe.targets.lowering.parts import Axis, Cut, Kernel, Part, evenly, numbers_of_first, work
from pocketpipe.targets.lowering.schedule import Order, Schedule
from pocketpipe.targets.lowering.tiling import ChannelTile, PixelTile, channel_tiles, pixel_tiles, tile_shape

FLOAT = 4
"""Bytes of a number."""
SMALLEST_SHARED = 200_000
"""Work (`parts.work`) from which on a kernel is cut for threads: to hand a part over takes a microsecond or so."""


def kernel_of(nest: Nest, cpu: Cpu, threads: int, chosen: "Schedule | PrimFunc | None") -> Kernel:
    """The kernel of `nest`: by rule, or as it was chosen, cut for so many threads; what others wrote is not cut."""
    if chosen is not None and not isinstance(chosen, Schedule):
        return Kernel(chosen)
    schedule = chosen or Schedule(*tile_shape(nest, cpu))
    cut = cut_for(nest, cpu, schedule, threads)
    tiles = channel_tiles(nest, cpu.lanes, schedule.vectors)
    return Kernel(kernel(nest, cpu, cut, schedule), cut, tuple(tiles) if nest.packed else None)


def cut_for(nest: Nest, cpu: Cpu, schedule: Schedule, threads: int) -> Cut | None:
    """How a kernel of `nest` is cut for so many threads; None where that would not win anything."""
    pixels = nest.outer * nest.rows.out * nest.columns.out
    products = pixels * nest.channels * nest.summed * nest.rows.taps * nest.columns.taps
    moved = nest.rows.size * nest.columns.size * nest.data_pixel + pixels * nest.channels
    if work(products, moved) < SMALLEST_SHARED:
        return None
    tiles = sum(tile.repeats for tile in channel_tiles(nest, cpu.lanes, schedule.vectors))
    rows, _ = nest.lines
    return evenly({Axis.ROWS: rows.out, Axis.TILES: tiles, Axis.GROUPS: nest.outer}, threads)


def kernel(nest: Nest, cpu: Cpu, cut: Cut | None = None, schedule: Schedule | None = None) -> PrimFunc:
    """TIR of `nest`; parameters: data, weight, an operand for each epilogue step that has one, out. Flat float32.

    If it is cut, the first unit to compute and one past the last follow. `schedule`: if not by rule.
    """
    operands = [step for step in nest.epilogue if step.has_operand]
    names = ["data", "weight", *(f"operand{index}" for index in range(len(operands))), "out"]
    # The length is used by nothing that follows: the loops bound what is touched.
    buffers = [tirx.decl_buffer((2**31 - 1,), "float32", name) for name in names]
    part = Part(cut)
    body = _Emitter(nest, cpu, buffers, part, schedule or Schedule(*tile_shape(nest, cpu))).body()
    return PrimFunc([*buffers, *part.parameters], body).with_attr("tirx.noalias", True)


@dataclass(frozen=True)
class _Tile:
    """A tile at a place: which outer index, first channel, row, first column."""

    channels: ChannelTile
    pixels: PixelTile
    outer: Index
    number: Index
    """Which of the tiles of these channels."""
    y: Index
    x: Index

    @property
    def channel(self) -> Index:
        """The first."""
        return self.channels.start + self.number * self.channels.width

    def vectors(self) -> list[tuple[Index, int, int]]:
        """(first channel, lanes, lanes that are stored) of each vector."""
        channels = self.channels
        starts = [self.channel + offset for offset in channels.offsets]
        return list(zip(starts, channels.lanes, channels.used, strict=True))


class _Emitter:
    """Statements of one kernel."""

    def __init__(self, nest: Nest, cpu: Cpu, buffers: Sequence[Buffer], part: Part, schedule: Schedule) -> None:
        self.nest, self.part, self.schedule = nest, part, schedule
        self.channel_tiles = channel_tiles(nest, cpu.lanes, schedule.vectors)
        self.rows, self.columns = nest.lines
        self.pixel_tiles = pixel_tiles(self.columns, schedule.pixels)
        self.data, self.weight, *self.operands, self.out = buffers
        self.together = cpu.inputs_together
        self.weight_bytes = FLOAT * nest.outer * packed_size(nest, self.channel_tiles)

    def body(self) -> Stmt:
        return self.part.loop(Axis.GROUPS, "outer", 0, self.nest.outer, self.of_outer)

    def of_outer(self, outer: Index) -> Stmt:
        """All pixels and channels, in the order of the schedule."""
        numbered = list(zip(numbers_of_first(self.channel_tiles), self.channel_tiles, strict=True))

        def rows(row: Callable[[Index], Stmt]) -> Stmt:
            return self.part.loop(Axis.ROWS, "y", 0, self.rows.out, row)

        def tiles(number: int, channels: ChannelTile, of_tile: Callable[[Index], Stmt]) -> Stmt:
            return self.part.loop(Axis.TILES, "co", number, channels.repeats, of_tile)

        if self.schedule.order is Order.ROWS:
            return rows(lambda y: sequence(
                tiles(number, channels, partial(self.row, channels, outer, y)) for number, channels in numbered
            ))  # fmt: skip
        return sequence(
            tiles(number, channels, lambda co, channels=channels: rows(  # type: ignore[misc]
                lambda y: self.row(channels, outer, y, co)
            )) for number, channels in numbered
        )  # fmt: skip

    def row(self, channels: ChannelTile, outer: Index, y: Index, co: Index) -> Stmt:
        """All pixels of a row, of tile number `co` of these channels."""

        def pixels_of(pixels: PixelTile) -> Stmt:
            def at(x: Index) -> Stmt:
                return self.tile(_Tile(channels, pixels, outer, co, y, pixels.start + x * pixels.width))

            return loop("x", pixels.repeats, at)

        return sequence(pixels_of(pixels) for pixels in self.pixel_tiles)

    def tile(self, tile: _Tile) -> Stmt:
        lanes = tile.channels.lanes
        sums = [
            [tirx.decl_buffer((count,), "float32", f"sum{p}_{v}", scope="local") for v, count in enumerate(lanes)]
            for p in range(tile.pixels.width)
        ]
        each = [(buffer, count) for row in sums for buffer, count in zip(row, lanes, strict=True)]
        return SeqStmt(
            [
                *(tirx.AllocBuffer(buffer) for buffer, _ in each),
                *(BufferStore(buffer, constant(0.0, count), [vector(0, count)]) for buffer, count in each),
                self.sum(tile, sums),
                *self.store(tile, sums),
            ]
        )

    def sum(self, tile: _Tile, sums: list[list[Buffer]]) -> Stmt:
        """The sum over the kernel's rows, its columns, and input channels."""
        nest, columns = self.nest, self.columns
        first, last = _rows_inside(self.rows, tile.y)
        inside_all = all(len(taps) == columns.taps for taps in tile.pixels.taps)

        def tap(ky: Index, kx: Index, pixels: Iterable[int]) -> Stmt:
            row = self.rows.position(tile.y, ky) * columns.size
            places = {p: (row + columns.position(tile.x + p, kx)) * nest.data_pixel for p in pixels}
            return self.along_channels(tile, sums, places, (ky * columns.taps + kx) * nest.summed)

        def row_of_taps(ky: Index) -> Stmt:
            if inside_all and isinstance(columns, Window):
                return loop("kx", columns.taps, lambda kx: tap(ky, kx, range(tile.pixels.width)))
            inside = {kx: tile.pixels.inside(kx) for kx in range(columns.taps)}
            return sequence(tap(ky, kx, pixels) for kx, pixels in inside.items() if pixels)

        return loop("ky", last - first, lambda ky: row_of_taps(first + ky))

    def along_channels(self, tile: _Tile, sums: list[list[Buffer]], data: dict[int, Index], first: Index) -> Stmt:
        """The summed channels of one tap, from step `first` of the sum on; `data`: places of channel 0 by pixel."""
        nest = self.nest
        together = 1 if nest.depthwise else self.together

        def step(ci: Index, count: int) -> Stmt:
            places = {p: place + ci for p, place in data.items()}
            return sequence(self.multiply_add(tile, sums, places, first + ci, count))

        return in_chunks("ci", nest.summed, together, self.schedule.unroll, step)

    def multiply_add(
        self, tile: _Tile, sums: list[list[Buffer]], data: dict[int, Index], step: Index, count: int
    ) -> Iterator[Stmt]:
        """`count` steps of the sum from step `step` on (one tap if depthwise); `data`: places of the first by pixel."""
        nest = self.nest
        inputs: dict[int, Any] = {}
        if not nest.depthwise:
            for p, pixel in data.items():
                inputs[p] = tirx.Var(f"x{p}", of("float32", count))
                place = tile.outer * nest.data_outer + pixel
                yield tirx.Bind(inputs[p], BufferLoad(self.data, [vector(place, count)]))
        for index in range(count):
            for v, (channel, lanes, _) in enumerate(tile.vectors()):
                factor = tirx.Var(f"w{v}", of("float32", lanes))
                place = self.weight_place(tile, step + index, v)
                yield tirx.Bind(factor, BufferLoad(self.weight, [vector(place, lanes)]))
                if nest.packed:
                    offset = FLOAT * sum(tile.channels.lanes[:v])
                    yield from fetched_ahead(self.weight, place, offset, FLOAT, self.weight_bytes)
                for p, pixel in data.items():
                    if nest.depthwise:
                        place = tile.outer * nest.data_outer + pixel + channel
                        value = BufferLoad(self.data, [vector(place, lanes)])
                    else:
                        value = _in_every_lane(inputs[p], count, index, lanes)
                    total, whole = sums[p][v], [vector(0, lanes)]
                    yield BufferStore(total, BufferLoad(total, whole) + value * factor, whole)

    def weight_place(self, tile: _Tile, step: Index, v: int) -> Index:
        """Where a vector of weights lies."""
        nest, channels = self.nest, tile.channels
        if not nest.packed:
            return tile.outer * nest.weight_outer + step * nest.weight_step + tile.channel + channels.offsets[v]
        before = packed_before(nest, self.channel_tiles, channels) + tile.outer * packed_size(nest, self.channel_tiles)
        return before + (tile.number * nest.steps + step) * channels.read + sum(channels.lanes[:v])

    def store(self, tile: _Tile, sums: list[list[Buffer]]) -> Iterator[Stmt]:
        """Finish the sums and write them out."""
        nest = self.nest
        for p, row in enumerate(sums):
            pixel = (tile.y * self.columns.out + tile.x + p) * nest.out_pixel
            for total, (channel, _, used) in zip(row, tile.vectors(), strict=True):
                place = tile.outer * nest.out_outer + pixel + channel
                value = BufferLoad(total, [vector(0, used)])
                value = self.finish(value, place, tile.outer * nest.channel_outer + channel, used)
                yield BufferStore(self.out, value, [vector(place, used)])

    def finish(self, value: Any, place: Index, channel: Index, lanes: int) -> Any:
        """The epilogue on a vector of sums; `place` in the output, `channel` in operands of one value a channel."""
        operands = iter(self.operands)
        for step in self.nest.epilogue:
            operand = None
            if step.has_operand:
                start = {Spread.SAME: place, Spread.CHANNEL: channel, Spread.SCALAR: 0}[step.spread]
                wide = step.spread is not Spread.SCALAR
                loaded = BufferLoad(next(operands), [vector(start, lanes) if wide else start])
                operand = loaded if wide else spread(loaded, lanes)
            value = applied(step, value, operand, lanes)
        return value


def _in_every_lane(inputs: Any, count: int, index: int, lanes: int) -> Any:
    """Number `index` of `count` inputs that were loaded together, `lanes` times."""
    if count == 1 or lanes == 1:
        return spread(inputs if count == 1 else tirx.Shuffle([inputs], [index]), lanes)
    again = -(-lanes // count)  # a shuffle takes no more lanes than it is given
    return tirx.Shuffle([inputs] * again, [index] * lanes)


def applied(step: EpilogueStep, value: Any, operand: Any, lanes: int = 1) -> Any:
    """What a step makes of a value; `operand`: the other one, where it has one."""
    match step.apply:
        case Apply.ADD:
            return value + operand
        case Apply.SUBTRACT:
            return value - operand
        case Apply.MULTIPLY:
            return value * operand
        case Apply.RELU:
            return tirx.Max(value, constant(0.0, lanes))
        case Apply.CLIP:
            low, high = step.bounds
            value = value if low == -inf else tirx.Max(value, constant(low, lanes))
            return value if high == inf else tirx.Min(value, constant(high, lanes))


def _rows_inside(rows: Window, y: Index) -> tuple[Index, Index]:
    """(first, one past the last) tap that lies inside the input at output row `y`."""
    if rows.always_inside:
        return 0, rows.taps
    above = rows.before - y * rows.stride  # rows of input that the window's top lies above the first
    first = tirx.max(0, tirx.floordiv(above + rows.dilation - 1, rows.dilation))
    last = tirx.min(rows.taps, tirx.floordiv(rows.size + above + rows.dilation - 1, rows.dilation))
    return first, tirx.max(first, last)
