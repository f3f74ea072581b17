"""From int32 sums to stored bytes: factor, zero point, activation, the addition of another tensor; TIR.

Sums are narrowed four registers at a time, which saturates, so that the range is applied to bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx import Buffer, BufferLoad, BufferStore, Stmt

from pocketpipe.targets.lowering.integers import geometry
from pocketpipe.targets.lowering.integers.geometry import SumOfProducts, order_in_block
from pocketpipe.targets.lowering.integers.sections import Section
from pocketpipe.targets.lowering.integers.units import Order, VectorUnit
from pocketpipe.targets.lowering.loops import Index, constant, of, spread, vector

TOGETHER = 4
"""Registers of sums that become one register of bytes."""


@dataclass(frozen=True)
class Finishing:
    """Statements that finish the sums of a kernel."""

    section: Section
    buffers: dict[str, Buffer]
    """Parameters of the kernel by name."""

    @property
    def layer(self) -> SumOfProducts:
        """The whole of it."""
        return self.section.layer

    @property
    def unit(self) -> VectorUnit:
        """Its registers."""
        return self.section.unit

    def bias(self, register: Index) -> Any:
        """What the sums of a register of channels start from."""
        return self.column(0, register)

    def column(self, number: int, register: Index) -> Any:
        """Bias (0), multiplier (1), rounding (2) or places (3) of a register of channels."""
        section, lanes = self.section, self.unit.lanes
        place = section.parameters + number * section.room + register * lanes
        return BufferLoad(self.buffers["parameters"], [vector(place, lanes)])

    def statements(self, sums: Sequence[Sequence[Buffer]], register: Index, place: Index, used: int) -> Iterator[Stmt]:
        """Finish and store.

        `sums`: by neighbouring pixel and register of channels, the first of them number `register`, to be stored from
        element `place` on; `used`: how many channels of each pixel there are.
        """
        sum_, whole = [vector(0, self.unit.sums)], [vector(0, self.unit.lanes)]
        for v in range(len(sums[0])):
            names = ("multiplier", "rounding", "places")
            factors = [tirx.Var(name, of("int32", self.unit.lanes)) for name in names]
            yield from (tirx.Bind(factor, self.column(1 + i, register + v)) for i, factor in enumerate(factors))
            for p, pixel in enumerate(sums):
                value = self.requantized(self.unit.finished(BufferLoad(pixel[v], sum_)), *factors)
                if self.layer.adds:
                    value = self.added(value, self.other(place + p * self.layer.outputs, v))
                yield BufferStore(pixel[v], value, whole)
        yield from self.stored(sums, place, used)

    def stored(self, sums: Sequence[Sequence[Buffer]], place: Index, used: int) -> Iterator[Stmt]:
        """Narrow registers and write them out, as many of a pixel as go together."""
        size = TOGETHER * self.unit.lanes
        for start in range(0, used, size):
            some = [pixel[start // self.unit.lanes :][:TOGETHER] for pixel in sums]
            yield from self.stored_together(some, place + start, min(size, used - start))

    def stored_together(self, sums: Sequence[Sequence[Buffer]], place: Index, used: int) -> Iterator[Stmt]:
        """The same of no more registers of a pixel than become one register of bytes."""
        outputs, registers = self.layer.outputs, len(sums[0])
        # One store of 16 bytes rather than two of 8 and 4, where something is overwritten anyway.
        order = self.order(registers)[: 1 << (-(-used // 4) - 1).bit_length()]
        width = 4 * len(order)
        together = max(1, TOGETHER // registers)
        for first in range(0, len(sums), together):
            pixels = sums[first : first + together]
            each = [BufferLoad(total, [vector(0, self.unit.lanes)]) for pixel in pixels for total in pixel]
            places = [(p * registers + v, part) for p in range(len(pixels)) for v, part in order]
            narrowed = tirx.Var("bytes", of("int8", len(pixels) * width))
            yield tirx.Bind(narrowed, self.in_range(self.unit.narrow(each, places), len(pixels) * width))
            start = place + first * outputs
            if width == used == outputs:
                yield BufferStore(self.buffers["out"], narrowed, [vector(start, len(pixels) * width)])
                continue
            for p in range(len(pixels)):
                # Where a tile has all channels, what is written behind a pixel is written again by the next.
                left = (len(sums) - first - p) * used
                count = min(width, left) if used == outputs else used
                part = tirx.Shuffle([narrowed], list(range(p * width, p * width + count)))
                yield BufferStore(self.buffers["out"], part, [vector(start + p * outputs, count)])

    def order(self, registers: int) -> Order:
        """Which four lanes of which register follow each other in memory."""
        parts = range(self.unit.lanes // 4)
        if self.layer.depthwise:
            return [(v, part) for part in parts for v in range(registers)]
        return [(v, part) for v in range(registers) for part in parts]

    def requantized(self, total: Any, multiplier: Any, rounding: Any, places: Any) -> Any:
        """int32 lanes: the one rounding rule, and the zero point."""
        lanes = self.unit.lanes
        if not self.layer.wide:
            return self.unit.rescale(total, multiplier, rounding, places)
        zero_point, low, high = (self.head(n) for n in (geometry.ZERO_POINT, geometry.LOW, geometry.HIGH))
        wide = of("int64", lanes)
        factor, shift = tirx.Cast(wide, multiplier), tirx.Cast(wide, places)
        half = constant(1, lanes, "int64") << (shift - constant(1, lanes, "int64"))
        rounded = (tirx.Cast(wide, total) * factor + half) >> shift
        bounds = (tirx.Cast(wide, bound - zero_point) for bound in (low, high))
        return tirx.Cast(of("int32", lanes), _clipped(rounded, *bounds)) + zero_point

    def added(self, value: Any, other: Any) -> Any:
        """Plus the other tensor, each by its factor, rounded once."""
        low, high = (self.head(n) for n in (geometry.LOW, geometry.HIGH))
        own, factor, rest, shift = (self.head(n) for n in range(geometry.OWN, geometry.SHIFT + 1))
        total = _clipped(value, low, high) * own + tirx.Cast(of("int32", self.unit.lanes), other) * factor + rest
        return (total >> shift) + self.head(geometry.SUM_ZERO_POINT)

    def other(self, place: Index, register: int) -> Any:
        """The other tensor's bytes for a register of sums; what lies behind its end is read, and dropped later."""
        other, lanes = self.buffers["other"], self.unit.lanes
        if not self.layer.depthwise:
            return BufferLoad(other, [vector(place + register * lanes, lanes)])
        block = BufferLoad(other, [vector(place, self.unit.block)])
        return tirx.Shuffle([block], order_in_block(self.unit)[register * lanes : (register + 1) * lanes])

    def in_range(self, value: Any, lanes: int) -> Any:
        """Bytes within the activation's bounds."""
        if not self.layer.bounded:
            return value
        names = (geometry.SUM_LOW, geometry.SUM_HIGH) if self.layer.adds else (geometry.LOW, geometry.HIGH)
        low, high = (BufferLoad(self.buffers["parameters"], [name]) for name in names)
        return _clipped(value, *(spread(tirx.Cast("int8", bound), lanes) for bound in (low, high)))

    def head(self, number: int) -> Any:
        """One of the layer's own numbers, in every lane."""
        return spread(BufferLoad(self.buffers["parameters"], [number]), self.unit.lanes)


def _clipped(value: Any, low: Any, high: Any) -> Any:
    return tirx.Max(tirx.Min(value, high), low)
