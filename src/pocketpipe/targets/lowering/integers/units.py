"""VectorUnit: how a processor sums products of bytes, takes the high half of a product, and narrows sums to bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tvm import tirx

from pocketpipe.targets.lowering.loops import constant, lanes_of, of

Expression = Any
Order = Sequence[tuple[int, int]]
MultiplyAdd = Callable[[Expression, Expression, Expression], Expression]

MANY = 24
"""Registers of sums of a tile where a processor has 32 of them."""


@dataclass(frozen=True)
class VectorUnit:
    """The instructions of one kind of processor.

    `multiply_add(total, x, weight)`: to each int32 lane of `total` the sum of `group` products.
    `rescale(total, multiplier, rounding, places)`: `floor((floor(total * multiplier / 2^high) + rounding) / 2^places)`:
    the floor of a floor is the floor of the whole.
    `narrow(registers, order)`: up to four registers of int32 as bytes that saturate; `order`: which register, and
    which four lanes of it, come one after the other.
    """

    name: str
    lanes: int
    """Channels whose sums one register holds."""
    group: int
    """Products that one instruction adds to the sums of a channel."""
    prepared: str
    """Type that inputs are brought to beforehand."""
    offset: int
    """What is added to them then, and taken out of the bias: 128 where the instruction wants them unsigned."""
    chunk: int
    """Groups of inputs that are loaded together; more than one where an instruction can pick one out of a register."""
    accumulators: int
    """Registers that a tile of sums may take; the rest hold weights and inputs."""
    high: int
    """Bits of a product that `rescale` drops at once."""
    multiply_add: MultiplyAdd
    rescale: Callable[[Expression, Expression, Expression, Expression], Expression]
    narrow: Callable[[Sequence[Expression], Order], Expression]
    narrower: VectorUnit | None = None
    """The same instructions on half the lanes."""
    partial: int = 1
    """int32 sums of a channel, side by side, that are added at the end (`finished`)."""
    folded: VectorUnit | None = None
    """The same registers for half the channels, with twice the products of each."""

    @property
    def factor(self) -> str:
        """Type in which numbers are multiplied; weights lie in memory as int8 and are widened when loaded."""
        return "int16" if self.prepared == "int16" else "int8"

    @property
    def block(self) -> int:
        """Channels that are loaded together where each is summed apart (depthwise): `group` registers of sums."""
        return self.group * self.lanes

    @property
    def sums(self) -> int:
        """int32 lanes of a register of sums."""
        return self.partial * self.lanes

    def begun(self, start: Expression) -> Expression:
        """A register of sums from a number for each channel."""
        if self.partial == 1:
            return start
        wide = tirx.Cast(of("uint64", self.lanes), tirx.reinterpret(of("uint32", self.lanes), start))
        return tirx.reinterpret(of("int32", self.sums), wide)

    def finished(self, total: Expression) -> Expression:
        """A number for each channel from a register of sums."""
        if self.partial == 1:
            return total
        pairs = tirx.reinterpret(of("int64", self.lanes), total)
        return tirx.Cast(of("int32", self.lanes), pairs + (pairs >> constant(32, self.lanes, "int64")))

    def register(self, count: int = 1) -> str:
        """TVM type of `count` registers of weights, or of inputs."""
        return of(self.factor, count * self.lanes * self.group)

    def weights(self, loaded: Expression) -> Expression:
        """int8 as loaded, ready to be multiplied."""
        kind = of(self.factor, lanes_of(loaded))
        return loaded if kind == str(loaded.ty.dtype) else tirx.Cast(kind, loaded)

    def part(self, registers: Expression, index: int) -> Expression:
        """One of several registers of weights that were loaded together."""
        size = self.lanes * self.group
        if lanes_of(registers) == size:
            return registers
        return tirx.Shuffle([registers], list(range(index * size, (index + 1) * size)))

    def words(self, loaded: Expression) -> Expression:
        """Inputs as loaded, a lane for each group."""
        kind = f"int{32 * self.partial}"
        return loaded if self.group == 1 else tirx.reinterpret(of(kind, lanes_of(loaded) // self.group), loaded)

    def in_every_lane(self, words: Expression, index: int) -> Expression:
        """A register with group number `index` of `words` in each lane."""
        if lanes_of(words) == 1:
            spread = tirx.Broadcast(words, self.lanes)
        else:
            again = -(-self.lanes // lanes_of(words))  # a shuffle takes no more lanes than it is given
            spread = tirx.Shuffle([words] * again, [index] * self.lanes)
        return spread if self.group == 1 else tirx.reinterpret(self.register(), spread)


def _bytes(instruction: str, lanes: int) -> MultiplyAdd:
    """Four bytes by four bytes, added to a lane."""

    def multiply_add(total: Expression, x: Expression, weight: Expression) -> Expression:
        return tirx.call_llvm_pure_intrin(of("int32", lanes), instruction, total, x, weight)

    return multiply_add


def _sdot(total: Expression, x: Expression, weight: Expression) -> Expression:
    """The same of signed bytes; the inputs last, where the instruction can pick four out of a register."""
    return tirx.call_llvm_pure_intrin("int32x4", "llvm.aarch64.neon.sdot.v4i32.v16i8", total, weight, x)


def _pairs(instruction: str, lanes: int) -> MultiplyAdd:
    """Two 16-bit numbers by two. `pmaddubsw`, which would take bytes, saturates: never used."""

    def multiply_add(total: Expression, x: Expression, weight: Expression) -> Expression:
        return total + tirx.call_llvm_pure_intrin(of("int32", lanes), instruction, x, weight)

    return multiply_add


def _single(total: Expression, x: Expression, weight: Expression) -> Expression:
    """16-bit numbers, widened: LLVM makes one multiply-accumulate of it (`smlal`)."""
    wide = total.ty.dtype
    return total + tirx.Cast(wide, x) * tirx.Cast(wide, weight)


def _by_high_half(total: Expression, multiplier: Expression, rounding: Expression, places: Expression) -> Expression:
    """Even and odd lanes multiplied apart, as `pmuldq` does; then the high halves side by side."""
    lanes = lanes_of(total)
    wide = of("int64", lanes // 2)
    half = constant(32, lanes // 2, "int64")

    def upper(of_odd: bool) -> Expression:
        pair = (tirx.reinterpret(wide, x) for x in (total, multiplier))
        left, right = ((x if of_odd else x << half) >> half for x in pair)
        return tirx.reinterpret(of("int32", lanes), left * right)

    order = [lane | 1 if lane % 2 == 0 else lanes + lane for lane in range(lanes)]
    return (tirx.Shuffle([upper(False), upper(True)], order) + rounding) >> places


def _by_doubling_high_half(
    total: Expression, multiplier: Expression, rounding: Expression, places: Expression
) -> Expression:
    """`sqdmulh`, the product over 2^31. Adding saturates: what does is out of a byte's range anyway."""
    if lanes_of(total) > 4:
        whole = (total, multiplier, rounding, places)
        halves = (_by_doubling_high_half(*(_half(x, which) for x in whole)) for which in (0, 1))
        return tirx.Shuffle(list(halves), list(range(lanes_of(total))))
    high = tirx.call_llvm_pure_intrin("int32x4", "llvm.aarch64.neon.sqdmulh.v4i32", total, multiplier)
    return tirx.call_llvm_pure_intrin("int32x4", "llvm.aarch64.neon.sqadd.v4i32", high, rounding) >> places


def _packs(first: str, second: str, lanes: int) -> Callable[[Sequence[Expression], Order], Expression]:
    """`packssdw`, then `packsswb`: in each lane of 128 bits four numbers of every register in turn."""

    def narrow(registers: Sequence[Expression], order: Order) -> Expression:
        a, b, c, d = (registers[min(i, len(registers) - 1)] for i in range(4))
        low = tirx.call_llvm_pure_intrin(of("int16", 2 * lanes), first, a, b)
        high = low if len(registers) < 3 else tirx.call_llvm_pure_intrin(of("int16", 2 * lanes), first, c, d)
        packed = tirx.call_llvm_pure_intrin(of("int8", 4 * lanes), second, low, high)
        places = [4 * quarter + register for register, quarter in order]
        if places == list(range(lanes)):
            return packed
        fours = tirx.Shuffle([tirx.reinterpret(of("int32", lanes), packed)], places)
        return tirx.reinterpret(of("int8", 4 * len(places)), fours)

    return narrow


def _saturating_narrow(registers: Sequence[Expression], order: Order) -> Expression:
    """`sqxtn`, twice."""
    fours = [tirx.Shuffle([registers[i]], list(range(4 * part, 4 * part + 4))) for i, part in order]
    shorts = [tirx.call_llvm_pure_intrin("int16x4", "llvm.aarch64.neon.sqxtn.v4i16", four) for four in fours]
    pairs = [tirx.Shuffle([*pair, pair[0]][:2], list(range(8))) for pair in _in_twos(shorts)]
    eights = [tirx.call_llvm_pure_intrin("int8x8", "llvm.aarch64.neon.sqxtn.v8i8", pair) for pair in pairs]
    return tirx.Shuffle(eights, list(range(4 * len(order))))


def _in_twos(values: list[Expression]) -> list[list[Expression]]:
    return [values[i : i + 2] for i in range(0, len(values), 2)]


def _half(expression: Expression, which: int) -> Expression:
    size = lanes_of(expression) // 2
    return tirx.Shuffle([expression], list(range(which * size, (which + 1) * size)))


_PACKS_512 = _packs("llvm.x86.avx512.packssdw.512", "llvm.x86.avx512.packsswb.512", 16)
_PACKS_256 = _packs("llvm.x86.avx2.packssdw", "llvm.x86.avx2.packsswb", 8)
_PACKS_128 = _packs("llvm.x86.sse2.packssdw.128", "llvm.x86.sse2.packsswb.128", 4)


def _wider(unit: VectorUnit, name: str, *multiply_add: MultiplyAdd) -> tuple[VectorUnit, VectorUnit]:
    """(256 bits, 512 bits) of what x86 does in 128; `multiply_add`: of each. AVX-512 has twice as many registers."""
    half = replace(
        unit, name=f"{name}, 256 bits", lanes=8, multiply_add=multiply_add[0], narrow=_PACKS_256, narrower=unit
    )
    whole = replace(
        unit, name=f"{name}, 512 bits", lanes=16, multiply_add=multiply_add[1], narrow=_PACKS_512, accumulators=MANY
    )
    folded = replace(
        whole, name=f"{whole.name}, two sums a channel", lanes=8, group=2 * unit.group, partial=2, narrow=_PACKS_256
    )
    narrower = replace(half, accumulators=MANY, narrower=replace(unit, accumulators=MANY))
    return half, replace(whole, narrower=narrower, folded=folded)


VNNI_128 = VectorUnit(
    "vpdpbusd, 128 bits", lanes=4, group=4, prepared="uint8", offset=128, chunk=1, accumulators=12, high=32,
    multiply_add=_bytes("llvm.x86.avx512.vpdpbusd.128", 4), rescale=_by_high_half, narrow=_PACKS_128,
)  # fmt: skip
VNNI_256, VNNI_512 = _wider(
    VNNI_128, "vpdpbusd", _bytes("llvm.x86.avx512.vpdpbusd.256", 8), _bytes("llvm.x86.avx512.vpdpbusd.512", 16)
)
PAIRS_128 = VectorUnit(
    "pmaddwd, 128 bits", lanes=4, group=2, prepared="int16", offset=0, chunk=1, accumulators=12, high=32,
    multiply_add=_pairs("llvm.x86.sse2.pmadd.wd", 4), rescale=_by_high_half, narrow=_PACKS_128,
)  # fmt: skip
PAIRS_256, PAIRS_512 = _wider(
    PAIRS_128, "vpmaddwd", _pairs("llvm.x86.avx2.pmadd.wd", 8), _pairs("llvm.x86.avx512.pmaddw.d.512", 16)
)
SDOT = VectorUnit(
    "sdot", lanes=4, group=4, prepared="int8", offset=0, chunk=4, accumulators=20, high=31,
    multiply_add=_sdot, rescale=_by_doubling_high_half, narrow=_saturating_narrow,
)  # fmt: skip
SMLAL = VectorUnit(
    "smlal, smlal2", lanes=8, group=1, prepared="int16", offset=0, chunk=8, accumulators=10, high=31,
    multiply_add=_single, rescale=_by_doubling_high_half, narrow=_saturating_narrow,
)  # fmt: skip
"""Two registers of four sums each, so that weights are widened eight at a time."""
