"""VectorUnit: how a processor sums products of bytes, and takes the high half of a product."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from pocketpipe.targets.lowering.loops import constant, of

Expression = Any


@dataclass(frozen=True)
class VectorUnit:
    """The instructions of one kind of processor.

    `multiply_add(total, x, weight)`: to each int32 lane of `total` the sum of `group` products.
    `rescale(total, multiplier, shift)`: `floor(total * multiplier / 2^shift + 1/2)` for shifts of 33 and more.
    """

    name: str
    lanes: int
    """int32 sums in one register."""
    group: int
    """Products that one instruction sums into one lane."""
    prepared: str
    """Type that inputs are brought to beforehand."""
    offset: int
    """What is added to them then, and taken out of the bias: 128 where the instruction wants them unsigned."""
    chunk: int
    """Groups of inputs that are loaded together; more than one where an instruction can pick one out of a register."""
    accumulators: int
    """Registers that a tile of sums may take; the rest hold weights and inputs."""
    multiply_add: Callable[[Expression, Expression, Expression], Expression]
    rescale: Callable[[Expression, Expression, Expression], Expression]

    @property
    def factor(self) -> str:
        """Type in which numbers are multiplied; weights lie in memory as int8 and are widened when loaded."""
        return "int16" if self.prepared == "int16" else "int8"

    def register(self, count: int = 1) -> str:
        """TVM type of `count` registers of weights, or of inputs."""
        return of(self.factor, count * self.lanes * self.group)

    def weights(self, loaded: Expression) -> Expression:
        """int8 as loaded, ready to be multiplied."""
        kind = of(self.factor, _lanes(loaded))
        return loaded if kind == str(loaded.ty.dtype) else tirx.Cast(kind, loaded)

    def part(self, registers: Expression, index: int) -> Expression:
        """One of several registers of weights that were loaded together."""
        size = self.lanes * self.group
        if _lanes(registers) == size:
            return registers
        return tirx.Shuffle([registers], list(range(index * size, (index + 1) * size)))

    def words(self, loaded: Expression) -> Expression:
        """Inputs as loaded, a lane for each group."""
        return loaded if self.group == 1 else tirx.reinterpret(of("int32", _lanes(loaded) // self.group), loaded)

    def in_every_lane(self, words: Expression, index: int) -> Expression:
        """A register with group number `index` of `words` in each lane."""
        if _lanes(words) == 1:
            spread = tirx.Broadcast(words, self.lanes)
        else:
            again = -(-self.lanes // _lanes(words))  # a shuffle takes no more lanes than it is given
            spread = tirx.Shuffle([words] * again, [index] * self.lanes)
        return spread if self.group == 1 else tirx.reinterpret(self.register(), spread)


def _bytes(instruction: str, lanes: int) -> Callable[[Expression, Expression, Expression], Expression]:
    """Four bytes by four bytes, added to a lane."""

    def multiply_add(total: Expression, x: Expression, weight: Expression) -> Expression:
        return tirx.call_llvm_pure_intrin(of("int32", lanes), instruction, total, x, weight)

    return multiply_add


def _sdot(total: Expression, x: Expression, weight: Expression) -> Expression:
    """The same of signed bytes; the inputs last, where the instruction can pick four out of a register."""
    return tirx.call_llvm_pure_intrin("int32x4", "llvm.aarch64.neon.sdot.v4i32.v16i8", total, weight, x)


def _pairs(instruction: str, lanes: int) -> Callable[[Expression, Expression, Expression], Expression]:
    """Two 16-bit numbers by two. `pmaddubsw`, which would take bytes, saturates: never used."""

    def multiply_add(total: Expression, x: Expression, weight: Expression) -> Expression:
        return total + tirx.call_llvm_pure_intrin(of("int32", lanes), instruction, x, weight)

    return multiply_add


def _single(total: Expression, x: Expression, weight: Expression) -> Expression:
    """16-bit numbers, widened: LLVM makes one multiply-accumulate of it (`smlal`)."""
    wide = total.ty.dtype
    return total + tirx.Cast(wide, x) * tirx.Cast(wide, weight)


def _by_high_half(total: Expression, multiplier: Expression, shift: Expression) -> Expression:
    """The high 32 bits of the product, then the rest of the shift: floor of a floor is the floor of the whole."""
    lanes = _lanes(total)
    wide = of("int64", lanes)
    product = tirx.Cast(wide, total) * tirx.Cast(wide, multiplier)
    high = tirx.Cast(of("int32", lanes), product >> constant(32, lanes, "int64"))
    half = constant(1, lanes, "int32") << (shift - constant(33, lanes, "int32"))
    return (high + half) >> (shift - constant(32, lanes, "int32"))


def _by_doubling_high_half(total: Expression, multiplier: Expression, shift: Expression) -> Expression:
    """`sqdmulh`, the product over 2^31, then `srshl`, which shifts right by what is negative and rounds halves up."""
    if _lanes(total) > 4:
        halves = (_by_doubling_high_half(*(_half(x, which) for x in (total, multiplier, shift))) for which in (0, 1))
        return tirx.Shuffle(list(halves), list(range(_lanes(total))))
    high = tirx.call_llvm_pure_intrin("int32x4", "llvm.aarch64.neon.sqdmulh.v4i32", total, multiplier)
    left = constant(31, 4, "int32") - shift
    return tirx.call_llvm_pure_intrin("int32x4", "llvm.aarch64.neon.srshl.v4i32", high, left)


def _half(expression: Expression, which: int) -> Expression:
    size = _lanes(expression) // 2
    return tirx.Shuffle([expression], list(range(which * size, (which + 1) * size)))


def _lanes(expression: Expression) -> int:
    return int(str(expression.ty.dtype).partition("x")[2] or 1)


VNNI_512 = VectorUnit(
    "vpdpbusd, 512 bits", 16, 4, "uint8", 128, 1, 24, _bytes("llvm.x86.avx512.vpdpbusd.512", 16), _by_high_half
)
VNNI_256 = VectorUnit(
    "vpdpbusd, 256 bits", 8, 4, "uint8", 128, 1, 12, _bytes("llvm.x86.avx512.vpdpbusd.256", 8), _by_high_half
)
PAIRS_512 = VectorUnit(
    "vpmaddwd, 512 bits", 16, 2, "int16", 0, 1, 24, _pairs("llvm.x86.avx512.pmaddw.d.512", 16), _by_high_half
)
PAIRS_256 = VectorUnit(
    "vpmaddwd, 256 bits", 8, 2, "int16", 0, 1, 12, _pairs("llvm.x86.avx2.pmadd.wd", 8), _by_high_half
)
PAIRS_128 = VectorUnit("pmaddwd, 128 bits", 4, 2, "int16", 0, 1, 12, _pairs("llvm.x86.sse2.pmadd.wd", 4), _by_high_half)
SDOT = VectorUnit("sdot", 4, 4, "int8", 0, 4, 20, _sdot, _by_doubling_high_half)
SMLAL = VectorUnit("smlal, smlal2", 8, 1, "int16", 0, 8, 10, _single, _by_doubling_high_half)
"""Two registers of four sums each, so that weights are widened eight at a time."""
