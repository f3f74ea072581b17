"""Nest -> TIR: register tiles of output pixels by output channels, vectors along channels, no padding in memory.

A tile holds P neighbouring pixels of a row times T vectors of channels in registers over the whole sum. Per summed
channel it loads T weight vectors, broadcasts P inputs and does P*T multiply-adds. What lies outside the input is
left out when the code is made (columns) or by the bounds of the loop over kernel rows: nothing is copied to be padded.
Channel counts that are no multiple of the vector end in a shorter vector. Weights may be read past a row's end (lanes
that are never stored), which is why constants and the arena are followed by slack.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx import Broadcast, Buffer, BufferLoad, BufferStore, For, ForKind, PrimFunc, Ramp, SeqStmt, Stmt

from pocketpipe.targets.lowering.cpu import Cpu
from pocketpipe.targets.lowering.nest import Apply, EpilogueStep, Nest, Spread

SLACK_FLOATS = 64
"""float32 numbers that must be readable behind every buffer that a kernel reads as weight: the widest vector, and room."""

MOST_VECTORS = 8
"""Vectors of channels in a tile at most: more independent sums than any of our CPUs needs to hide the latency."""

MOST_PIXELS = 8


@dataclass(frozen=True)
class ChannelTile:
    """`repeats` tiles in a row from channel `start`: each holds vectors of `lanes`, of which `used` are stored."""

    start: int
    repeats: int
    lanes: tuple[int, ...]
    used: tuple[int, ...]

    @property
    def width(self) -> int:
        """Channels of one tile."""
        return sum(self.used)

    @property
    def offsets(self) -> list[int]:
        """First channel of each vector, from the tile's first."""
        return [sum(self.used[:i]) for i in range(len(self.used))]


@dataclass(frozen=True)
class PixelTile:
    """`repeats` tiles in a row from column `start`, each of as many pixels as `taps` has entries.

    `taps[p]`: the kernel columns that lie inside the input for pixel p.
    """

    start: int
    repeats: int
    taps: tuple[tuple[int, ...], ...]


def channel_tiles(nest: Nest, lanes: int, vectors: int) -> list[ChannelTile]:
    """Cover the channels: whole tiles of `vectors` vectors, then what is left in one more tile."""
    whole = nest.channels // (lanes * vectors)
    tiles = [ChannelTile(0, whole, (lanes,) * vectors, (lanes,) * vectors)] if whole else []
    start = whole * lanes * vectors
    left = nest.channels - start
    if left:
        used = (lanes,) * (left // lanes) + ((left % lanes,) if left % lanes else ())
        # A vector of 13 is a register of 16: read all of it where that is harmless, and store 13 of it.
        padded = used if nest.depthwise else tuple(_power_of_two(count) for count in used)
        tiles.append(ChannelTile(start, 1, padded, used))
    return tiles


def pixel_tiles(nest: Nest, pixels: int) -> list[PixelTile]:
    """Cover a row: tiles of nearly equal width, at most `pixels`; neighbours with the same taps are one loop."""
    columns = nest.columns
    count = -(-columns.out // pixels)
    width = -(-columns.out // count)
    tiles: list[PixelTile] = []
    for start in range(0, columns.out, width):
        taps = tuple(columns.valid_taps(x) for x in range(start, min(start + width, columns.out)))
        if tiles and tiles[-1].taps == taps:
            last = tiles.pop()
            tiles.append(PixelTile(last.start, last.repeats + 1, taps))
        else:
            tiles.append(PixelTile(start, 1, taps))
    return tiles


def tile_shape(nest: Nest, cpu: Cpu) -> tuple[int, int]:
    """(pixels, vectors) of a tile: wide in channels first where rows are short, so that enough sums run at once."""
    vectors_there = -(-nest.channels // cpu.lanes)
    pixels = min(nest.columns.out, MOST_PIXELS)
    vectors = max(1, min(vectors_there, MOST_VECTORS, cpu.accumulators // pixels))
    return min(nest.columns.out, MOST_PIXELS, max(1, cpu.accumulators // vectors)), vectors


def kernel(nest: Nest, cpu: Cpu) -> PrimFunc:
    """TIR of `nest`: parameters data, weight, one operand for each epilogue step that has one, out; all flat float32."""
    operands = [step for step in nest.epilogue if step.has_operand]
    names = ["data", "weight", *(f"operand{i}" for i in range(len(operands))), "out"]
    # The lengths are not used by anything that follows; a kernel's loops bound what it touches.
    buffers = [tirx.decl_buffer((2**31 - 1,), "float32", name) for name in names]
    body = _Emitter(nest, cpu, buffers).function_body()
    return PrimFunc(buffers, body).with_attr("tirx.noalias", True)


class _Emitter:
    """Statements of one kernel."""

    def __init__(self, nest: Nest, cpu: Cpu, buffers: Sequence[Buffer]) -> None:
        self.nest = nest
        self.pixels, self.vectors = tile_shape(nest, cpu)
        self.lanes = cpu.lanes
        self.data, self.weight, *self.operands, self.out = buffers

    def function_body(self) -> Stmt:
        nest = self.nest
        return _loop("outer", nest.outer, lambda outer: _sequence(
            _loop("co", tile.repeats, lambda co, tile=tile: _loop("y", nest.rows.out, lambda y: _sequence(
                _loop("x", pixels.repeats, lambda x, pixels=pixels: self.tile(
                    outer, tile, tile.start + co * tile.width, y, pixels, pixels.start + x * len(pixels.taps)
                ))
                for pixels in pixel_tiles(nest, self.pixels)
            )))
            for tile in channel_tiles(nest, self.lanes, self.vectors)
        ))  # fmt: skip

    def tile(self, outer: Any, channels: ChannelTile, channel: Any, y: Any, pixels: PixelTile, x: Any) -> Stmt:
        sums = [
            [
                tirx.decl_buffer((lanes,), "float32", f"sum{p}_{v}", scope="local")
                for v, lanes in enumerate(channels.lanes)
            ]
            for p in range(len(pixels.taps))
        ]
        flat = [(buffer, lanes) for row in sums for buffer, lanes in zip(row, channels.lanes, strict=True)]
        return SeqStmt(
            [
                *(tirx.AllocBuffer(buffer) for buffer, _ in flat),
                *(BufferStore(buffer, _constant(0.0, lanes), [_vector(0, lanes)]) for buffer, lanes in flat),
                self.sum_over_window(sums, outer, channels, channel, y, pixels, x),
                *self.store(sums, outer, channels, channel, y, x),
            ]
        )

    def sum_over_window(
        self,
        sums: list[list[Buffer]],
        outer: Any,
        channels: ChannelTile,
        channel: Any,
        y: Any,
        pixels: PixelTile,
        x: Any,
    ) -> Stmt:
        rows, columns = self.nest.rows, self.nest.columns
        first, last = _row_taps(self.nest, y)
        everywhere = all(len(taps) == columns.taps for taps in pixels.taps)

        def column(ky: Any, kx: Any, inside: Sequence[int]) -> Stmt:
            row = rows.position(y, ky)
            places = {p: row * columns.size + columns.position(x + p, kx) for p in inside}
            tap = (ky * columns.taps + kx) * self.nest.summed * self.nest.weight_step
            return _loop("ci", self.nest.summed, lambda ci: self.multiply_add(
                sums, channels,
                {p: outer * self.nest.data_outer + place * self.nest.data_pixel + ci for p, place in places.items()},
                outer * self.nest.weight_outer + tap + ci * self.nest.weight_step, channel,
            ))  # fmt: skip

        def row_of_taps(ky: Any) -> Stmt:
            if everywhere:
                return _loop("kx", columns.taps, lambda kx: column(ky, kx, range(len(pixels.taps))))
            inside = {kx: [p for p, taps in enumerate(pixels.taps) if kx in taps] for kx in range(columns.taps)}
            return _sequence(column(ky, kx, places) for kx, places in inside.items() if places)

        return _loop("ky", last - first, lambda ky: row_of_taps(ky + first))

    def multiply_add(
        self, sums: list[list[Buffer]], channels: ChannelTile, data: dict[int, Any], weight: Any, channel: Any
    ) -> Stmt:
        """One summed channel (or one tap, if depthwise): `data[p]`, `weight`: indices of channel 0."""
        statements: list[Stmt] = []
        for v, (offset, lanes) in enumerate(zip(channels.offsets, channels.lanes, strict=True)):
            loaded = tirx.Var(f"w{v}", f"float32x{lanes}" if lanes > 1 else "float32")
            place = _vector(weight + channel + offset, lanes)
            statements.append(tirx.Bind(loaded, BufferLoad(self.weight, [place])))
            for p, index in data.items():
                if self.nest.depthwise:
                    factor = BufferLoad(self.data, [_vector(index + channel + offset, lanes)])
                else:
                    factor = _spread(BufferLoad(self.data, [index]), lanes)
                total, everything = sums[p][v], _vector(0, lanes)
                statements.append(BufferStore(total, BufferLoad(total, [everything]) + factor * loaded, [everything]))
        return _sequence(statements)

    def store(
        self, sums: list[list[Buffer]], outer: Any, channels: ChannelTile, channel: Any, y: Any, x: Any
    ) -> Iterator[Stmt]:
        for p, row in enumerate(sums):
            pixel = (y * self.nest.columns.out + x + p) * self.nest.out_pixel
            for total, offset, used in zip(row, channels.offsets, channels.used, strict=True):
                place = outer * self.nest.out_outer + pixel + channel + offset
                in_operand = outer * self.nest.channel_outer + channel + offset
                value = self.finish(BufferLoad(total, [_vector(0, used)]), place, in_operand, used)
                yield BufferStore(self.out, value, [_vector(place, used)])

    def finish(self, value: Any, place: Any, channel: Any, lanes: int) -> Any:
        """The epilogue on a vector of sums."""
        operands = iter(self.operands)
        for step in self.nest.epilogue:
            operand = self.operand(next(operands), step, place, channel, lanes) if step.has_operand else None
            value = _applied(step, value, operand, lanes)
        return value

    def operand(self, buffer: Buffer, step: EpilogueStep, place: Any, channel: Any, lanes: int) -> Any:
        if step.spread is Spread.SCALAR:
            return _spread(BufferLoad(buffer, [0]), lanes)
        return BufferLoad(buffer, [_vector(place if step.spread is Spread.SAME else channel, lanes)])


def _applied(step: EpilogueStep, value: Any, operand: Any, lanes: int) -> Any:
    match step.apply:
        case Apply.ADD:
            return value + operand
        case Apply.SUBTRACT:
            return value - operand
        case Apply.MULTIPLY:
            return value * operand
        case Apply.RELU:
            return tirx.Max(value, _constant(0.0, lanes))
        case Apply.CLIP:
            low, high = (_constant(bound, lanes) for bound in step.bounds)
            return tirx.Min(tirx.Max(value, low), high)


def _row_taps(nest: Nest, y: Any) -> tuple[Any, Any]:
    """(first, one past the last) kernel row that lies inside the input at output row `y`."""
    rows = nest.rows
    if rows.always_inside:
        return 0, rows.taps
    above = rows.before - y * rows.stride
    below = rows.size + above
    step = rows.dilation
    first = tirx.max(0, tirx.floordiv(above + step - 1, step))
    last = tirx.min(rows.taps, tirx.floordiv(below + step - 1, step))
    return first, tirx.max(first, last)


def _loop(name: str, extent: Any, body: Callable[[Any], Stmt]) -> Stmt:
    """`body` at each index; no loop where there is but one."""
    if isinstance(extent, int) and extent == 1:
        return body(0)
    variable = tirx.Var(name, "int32")
    return For(variable, 0, extent, ForKind.SERIAL, body(variable))


def _sequence(statements: Any) -> Stmt:
    parts = list(statements)
    return parts[0] if len(parts) == 1 else SeqStmt(parts)


def _vector(start: Any, lanes: int) -> Any:
    return Ramp(start, 1, lanes) if lanes > 1 else start


def _spread(value: Any, lanes: int) -> Any:
    return Broadcast(value, lanes) if lanes > 1 else value


def _constant(value: float, lanes: int) -> Any:
    return _spread(tirx.const(value, "float32"), lanes)


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()
