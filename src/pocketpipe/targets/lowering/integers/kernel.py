"""SumOfProducts -> TIR: register tiles of pixels by channels over prepared inputs, requantized as they are stored.

A tile holds P neighbouring pixels of a line (a row, or several of a narrow image: `nest.joined`) times T registers of
channels in int32 over the whole sum. Per group of summed inputs it loads T registers of weights, spreads P groups of
inputs over a register each, and multiplies and adds P * T times (`depthwise` does otherwise). Bias, factor, zero point,
activation and, if there is one, the addition of another tensor are applied in registers (`finishing`): what leaves a
tile is int8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from tvm import tirx
from tvm.tirx import Buffer, BufferLoad, BufferStore, PrimFunc, SeqStmt, Stmt

from pocketpipe.targets.lowering.fetching import AHEAD, CACHE_LINE, fetched_ahead
from pocketpipe.targets.lowering.integers.depthwise import DepthwiseSums
from pocketpipe.targets.lowering.integers.finishing import Finishing
from pocketpipe.targets.lowering.integers.geometry import SumOfProducts, rounded_up
from pocketpipe.targets.lowering.integers.preparing import Layout, Preparing
from pocketpipe.targets.lowering.integers.sections import Section, sections
from pocketpipe.targets.lowering.integers.units import VectorUnit
from pocketpipe.targets.lowering.loops import Index, in_chunks, loop, one_by_one, sequence, vector
from pocketpipe.targets.lowering.parts import Axis, Cut, Kernel, Part, evenly, numbers_of_first, work
from pocketpipe.targets.lowering.schedule import Order, Schedule

MOST_VECTORS = 4
MOST_PIXELS = 16


SMALLEST_SHARED = 800_000
"""Work (`parts.work`) from which on a kernel is cut for threads: to hand a part over takes a microsecond or so."""
DEPTHWISE = 8
"""Products that take about as long as one of a depthwise layer, whose inputs no second channel reads."""


def kernel_of(layer: SumOfProducts, unit: VectorUnit, threads: int, chosen: Schedule | None) -> Kernel:
    """The kernel of a layer: by rule, or by the schedule that was chosen, cut for so many threads."""
    cut = cut_for(layer, unit, chosen, threads)
    return Kernel(kernel(layer, unit, cut, chosen), cut)


def cut_for(layer: SumOfProducts, unit: VectorUnit, chosen: Schedule | None, threads: int) -> Cut | None:
    """How a kernel is cut for so many threads; None where that would not win anything."""
    made = layer.out_height * layer.out_width * layer.outputs
    moved = layer.height * layer.width * layer.channels + made
    products = made * layer.read * layer.taps[0] * layer.taps[1] * (DEPTHWISE if layer.depthwise else 1)
    if work(products, moved) < SMALLEST_SHARED:
        return None
    tiles = sum(run.repeats for _, run in runs_of_tiles(scheduled(layer, unit, chosen)))
    lines, _ = layer.lines
    return evenly({Axis.ROWS: lines, Axis.TILES: tiles, Axis.GROUPS: layer.groups}, threads)


def kernel(layer: SumOfProducts, unit: VectorUnit, cut: Cut | None = None, chosen: Schedule | None = None) -> PrimFunc:
    """TIR; parameters: input, weight and parameters as `sections` packs them, the tensor to add if any, output.

    If it is cut, the first unit to compute and one past the last follow. `chosen`: a schedule, if not by rule.
    """
    kinds = {"x": "int8", "weight": "int8", "parameters": "int32", "other": "int8", "out": "int8"}
    names = [name for name in kinds if name != "other" or layer.adds]
    buffers = {name: tirx.decl_buffer((2**31 - 1,), kinds[name], name) for name in names}
    part = Part(cut)
    body = _body(scheduled(layer, unit, chosen), buffers, part)
    return PrimFunc([*buffers.values(), *part.parameters], body).with_attr("tirx.noalias", True)


Scheduled = Sequence[tuple[Section, Schedule]]
"""The sections of a layer, each with the order and the sizes of its tiles."""


def scheduled(layer: SumOfProducts, unit: VectorUnit, chosen: Schedule | None = None) -> Scheduled:
    """By rule; a schedule that was chosen is for the section of most channels, and its order for all."""
    cut = sections(layer, unit)
    by_rule = [(each, Schedule(*tile_sizes(each.shape, each.unit))) for each in cut]
    if chosen is None:
        return by_rule
    main, *tails = by_rule
    return [(main[0], chosen), *((each, replace(rule, order=chosen.order)) for each, rule in tails)]


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
    _, columns = shape.lines
    if shape.depthwise:
        return min(columns, MOST_PIXELS, max(1, unit.accumulators // unit.group)), unit.group
    registers = shape.registers(unit)
    vectors = min(registers, MOST_VECTORS, max(1, unit.accumulators // min(columns, 8)))
    vectors = runs(registers, vectors)[0].width
    vectors = 1 << (vectors.bit_length() - 1)  # three fill a register of bytes to three quarters (`finishing.TOGETHER`)
    return min(columns, MOST_PIXELS, max(1, unit.accumulators // vectors)), vectors


def runs_of_tiles(parts: Scheduled) -> list[tuple[int, Run]]:
    """(number of the section, tiles of its registers); the tile of a register that is not full is a run of its own."""
    found = []
    for number, (section, schedule) in enumerate(parts):
        *most, end = runs(section.registers, schedule.vectors)
        full = section.made == section.registers * section.unit.lanes
        found += [(number, run) for run in (*most, *([end] if full else end.with_last_apart()))]
    return found


def _body(parts: Scheduled, buffers: dict[str, Buffer], part: Part) -> Stmt:
    """Bands of lines: inputs prepared, then the tiles of every section."""
    (main, schedule), *_ = parts
    layer, layout = main.layer, Layout(main.layer, main.unit)
    scratch = tirx.decl_buffer((layout.elements,), main.unit.prepared, "scratch")
    emitters = [_Emitter(section, rule, layout, buffers, scratch) for section, rule in parts]
    numbered = runs_of_tiles(parts)
    firsts = numbers_of_first([run for _, run in numbered])
    start, lines = part.range(Axis.ROWS, layer.lines[0])
    preparing = Preparing(layout, buffers["x"], buffers["parameters"], scratch)

    def tiles(of_tile: Callable[[_Emitter, Run, Index], Stmt]) -> Stmt:
        return sequence(
            part.loop(Axis.TILES, "co", number, run.repeats, partial(of_tile, emitters[section], run))
            for number, (section, run) in zip(firsts, numbered, strict=True)
        )

    def of_lines(first: Index, made: Index) -> Stmt:
        """`made` lines of output from `first` on, in the order of the schedule."""

        def of_group(group: Index) -> Stmt:
            if schedule.order is Order.ROWS:
                return loop("y", made, lambda line: tiles(
                    lambda emitter, run, index: emitter.line(group, run, first, line, index)
                ))  # fmt: skip
            return tiles(lambda emitter, run, index: loop(
                "y", made, lambda line: emitter.line(group, run, first, line, index)
            ))  # fmt: skip

        return part.loop(Axis.GROUPS, "group", 0, layer.groups, of_group)

    def at(index: Index) -> Stmt:
        whole = isinstance(lines, int) and lines % layout.band == 0
        made = layout.band if whole else tirx.min(layout.band, lines - index * layout.band)
        first = start + index * layout.band
        return sequence([preparing.rows(first, made), of_lines(first, made)])

    bands = loop("band", (lines + layout.band - 1) // layout.band, at)
    return SeqStmt([tirx.AllocBuffer(scratch), bands])


@dataclass(frozen=True)
class _Tile:
    """Pixels of a line times registers of channels: the first of each, and how many."""

    group: Index
    register: Index
    registers: int
    y: Index
    """Line of the output."""
    line: Index
    """The same, counted from the band's first."""
    x: Index
    pixels: int
    used: int
    """Channels of a pixel that are stored."""


class _Emitter:
    """Statements of one section of a kernel."""

    def __init__(
        self, section: Section, schedule: Schedule, layout: Layout, buffers: dict[str, Buffer], scratch: Buffer
    ) -> None:
        self.section, self.schedule, self.layout = section, schedule, layout
        self.buffers, self.scratch = buffers, scratch
        self.layer, self.unit = section.layer, section.unit
        self.whole = [vector(0, self.unit.sums)]
        self.finishing = Finishing(section, buffers)
        self.weight_bytes = section.room * section.steps * self.unit.group

    def line(self, group: Index, registers: Run, first: Index, line: Index, index: Index) -> Stmt:
        """All tiles of a line, of tile number `index` of these registers of channels."""
        start, whole = registers.start * self.unit.lanes, registers.width * self.unit.lanes
        used = whole if registers.repeats > 1 else min(whole, self.section.made - start)

        def tile(run: Run, x: Index) -> Stmt:
            return self.tile(_Tile(
                group=group, register=registers.start + index * registers.width, registers=registers.width, used=used,
                y=first + line, line=line, x=run.start + x * run.width, pixels=run.width,
            ))  # fmt: skip

        each = loop if self.layout.evenly_apart else one_by_one
        return sequence(
            each("x", run.repeats, partial(tile, run)) for run in runs(self.layer.lines[1], self.schedule.pixels)
        )

    def tile(self, tile: _Tile) -> Stmt:
        layer, section = self.layer, self.section
        sums = [
            [tirx.decl_buffer((self.unit.sums,), "int32", f"sum{p}_{v}", scope="local") for v in range(tile.registers)]
            for p in range(tile.pixels)
        ]
        register = tile.group * section.registers + tile.register
        channel = tile.group * layer.made + section.first + tile.register * self.unit.lanes
        place = (tile.y * layer.lines[1] + tile.x) * layer.outputs + channel
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
        layer, layout, section, group = self.layer, self.layout, self.section, self.unit.group
        if layer.depthwise:
            row = tile.line * layer.strides[0]
            depthwise = DepthwiseSums(section, layout, self.scratch, self.buffers["weight"])
            return sequence(depthwise.statements(sums, tirx.floordiv(tile.register, group), row, tile.x))
        inner = layout.read // group

        def tap(ky: Index, kx: Index, steps: int) -> Stmt:
            further = ky * layer.dilations[0] * layout.row + kx * layer.dilations[1] * layout.pixel
            start = further + tile.group * layout.read
            places = [start + layout.read_first(tile.line, tile.x + p) for p in range(tile.pixels)]
            return self.along(tile, sums, places, ky * section.steps_of_row + kx * inner, steps)

        if layer.in_one_run:
            return loop("ky", layer.taps[0], lambda ky: tap(ky, 0, section.steps_of_row))
        return loop("ky", layer.taps[0], lambda ky: loop("kx", layer.taps[1], lambda kx: tap(ky, kx, inner)))

    def along(self, tile: _Tile, sums: list[list[Buffer]], places: list[Index], first: Index, count: int) -> Stmt:
        """`count` steps from step `first`, whose inputs lie side by side from `places` on: by chunks, then singly."""

        def steps(step: Index, size: int) -> Stmt:
            at = [place + step * self.unit.group for place in places]
            return sequence(self.multiply_add(tile, sums, at, first + step, size))

        return in_chunks("k", count, self.unit.chunk, self.schedule.unroll, steps)

    def multiply_add(
        self, tile: _Tile, sums: list[list[Buffer]], places: list[Index], step: Index, size: int
    ) -> Iterator[Stmt]:
        """`size` steps of every sum of the tile; `places`: of the inputs of each pixel."""
        unit = self.unit
        register = unit.lanes * unit.group
        first = tile.group * self.section.registers + tile.register
        weights = [tirx.Var(f"w{v}", unit.register(size)) for v in range(tile.registers)]
        # Each register of the tile has a stream of its own; the next tile's begin where the last one of these ends.
        ahead = sorted({AHEAD, max(AHEAD, tile.registers * self.section.steps * register)})
        for v, weight in enumerate(weights):
            place = self.section.weights + ((first + v) * self.section.steps + step) * register
            loaded = BufferLoad(self.buffers["weight"], [vector(place, size * register)])
            yield tirx.Bind(weight, unit.weights(loaded))
            for behind in range(0, size * register, CACHE_LINE) if 2 * register * size >= CACHE_LINE else ():
                for distance in ahead:
                    yield from fetched_ahead(
                        self.buffers["weight"], place + behind, behind, 1, self.weight_bytes, distance
                    )
        for p, place in enumerate(places):
            words = unit.words(BufferLoad(self.scratch, [vector(place, size * unit.group)]))
            inputs = tirx.Var(f"x{p}", words.ty.dtype)
            yield tirx.Bind(inputs, words)
            for index in range(size):
                x = unit.in_every_lane(inputs, index)
                for v, weight in enumerate(weights):
                    total = BufferLoad(sums[p][v], self.whole)
                    yield BufferStore(sums[p][v], unit.multiply_add(total, x, unit.part(weight, index)), self.whole)
