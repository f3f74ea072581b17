"""The one rounding rule, and real factors as integers.

A product with a real factor is `floor(x * multiplier / 2^shift + 1/2)`: exact in 64 bits, rounded once, halves up.
Why halves up: it is one addition and one arithmetic shift on every target (`srshl` of ARM, `add; sra` of a plain C
compiler, an adder in an FPGA), and it has no case distinction on the sign, as rounding half away from zero or half to
even have. Why once: rounding twice (a high half-product, then a shift) is off by one in places where nobody looks.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import frexp, inf

import numpy as np

from pocketpipe.errors import UserError

MULTIPLIER_BITS = 31
LARGEST_SHIFT = 62
"""|accumulator| < 2^31 times a multiplier < 2^31 stays below 2^62: the rounding term fits beside it in 64 bits."""

LARGEST_SHARED_SHIFT = 30
"""The rounding term of a sum in 32 bits must fit beside the sum."""

CALIBRATED = "is the network calibrated?"
"""What to ask where scales lie this far apart."""


@dataclass(frozen=True)
class Requantization:
    """From an int32 accumulator to int8: `clip(round(acc * multiplier / 2^shift) + zero_point, low, high)`."""

    multiplier: np.ndarray
    """int32 (channels,) or (1,), each in [2^30, 2^31), or 0."""
    shift: np.ndarray
    """int32, like `multiplier`; each in 1..62."""
    zero_point: int
    low: int
    high: int
    """Range of the result: that of its bits, narrowed by an activation fused into it."""

    def __call__(self, accumulator: np.ndarray) -> np.ndarray:
        """int8 of an integer accumulator whose channels lie along its last axis."""
        product = accumulator.astype(np.int64) * self.multiplier.astype(np.int64)
        rounded = scaled(product, self.shift.astype(np.int64))
        result: np.ndarray = np.clip(rounded + self.zero_point, self.low, self.high).astype(np.int8)
        return result


def on_grid(real: np.ndarray | float, scale: float, zero_point: int, low: int, high: int) -> np.ndarray:
    """Real numbers as int8 of steps of `scale`, by the rule; what is not a number is `low`, as in C.

    >>> on_grid(np.array([0.25, -0.25, 9.0, np.nan]), 0.5, 1, -8, 7).tolist()
    [2, 1, 7, -8]
    """
    scaled = np.floor(np.asarray(real, np.float64) / scale + 0.5) + zero_point
    result: np.ndarray = np.clip(np.where(np.isnan(scaled), low, scaled), low, high).astype(np.int8)
    return result


def scaled(product: np.ndarray, shift: np.ndarray | int) -> np.ndarray:
    """`product / 2^shift`, rounded by the rule.

    >>> scaled(np.array([5, 6, 7, -5, -6, -7]), 2).tolist()  # 1.25, 1.5, 1.75, and their negatives
    [1, 2, 2, -1, -1, -2]
    """
    one, shift = np.int64(1), np.asarray(shift, np.int64)
    result: np.ndarray = (product + (one << (shift - one))) >> shift
    return result


FRACTION_BITS = 16
"""Of what `over_root` gives."""
ROOT_BITS = 31
"""Of a root of a number of 62 bits."""


def over_root(values: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """`values / sqrt(squares)`, int64, in units of 2^-16: by one division of 64 bits for each of `squares`.

    `squares` (1..2^62 - 1) is brought to 61 or 62 bits by a factor 4^e, `root = floor(sqrt(...))` then has 31 bits, and
    the result is `values * floor(2^61 / root) / 2^(45 - e)`, rounded by the rule. |values| < 2^23.

    >>> over_root(np.array([3, -3]), np.array([4, 4])) / 2**16
    array([ 1.5, -1.5])
    """
    exponent = np.zeros_like(squares)
    for _ in range(ROOT_BITS - 1):
        small = squares < np.int64(1) << 2 * ROOT_BITS - 2
        squares, exponent = np.where(small, squares << 2, squares), exponent + small
    reciprocal = (np.int64(1) << 2 * ROOT_BITS - 1) // square_root(squares)
    return scaled(values * reciprocal, 2 * ROOT_BITS - 1 - FRACTION_BITS - exponent)


def square_root(squares: np.ndarray) -> np.ndarray:
    """The largest integers whose squares are not above `squares` (int64, below 2^62): bit by bit, highest first.

    >>> square_root(np.array([0, 1, 3, 4, 2**62 - 1]))
    array([         0,          1,          1,          2, 2147483647])
    """
    root = np.zeros_like(squares)
    for bit in reversed(range(ROOT_BITS)):
        tried = root | np.int64(1) << bit
        root = np.where(tried * tried <= squares, tried, root)
    return root


def fixed_point(factor: float) -> tuple[int, int]:
    """(multiplier, shift) nearest to a real `factor` >= 0: multiplier / 2^shift, the multiplier of 31 bits.

    Raises UserError for a factor that is no finite number, or 2^30 and more.

    >>> fixed_point(0.75), fixed_point(1.0), fixed_point(0.0)
    ((1610612736, 31), (1073741824, 30), (0, 1))
    """
    mantissa, exponent = frexp(factor) if 0.0 <= factor < inf else (0.0, MULTIPLIER_BITS)
    multiplier = round(mantissa * 2**MULTIPLIER_BITS)
    if multiplier == 2**MULTIPLIER_BITS:
        multiplier, exponent = multiplier // 2, exponent + 1
    shift = MULTIPLIER_BITS - exponent
    if shift < 1:
        raise UserError(f"a scale of {factor:g} cannot be written as multiplier and shift; {CALIBRATED}")
    if shift > LARGEST_SHIFT:  # far below a half: the result is 0 for every accumulator
        return 0, 1
    return (multiplier, shift) if multiplier else (0, 1)


def requantization(factors: np.ndarray, zero_point: int, low: int, high: int) -> Requantization:
    """One factor a channel (or one for all) as integers."""
    pairs = [fixed_point(float(factor)) for factor in np.atleast_1d(factors)]
    multiplier, shift = (np.array(column, np.int32) for column in zip(*pairs, strict=True))
    return Requantization(multiplier, shift, zero_point, low, high)


def shared_shift(factors: tuple[float, ...], bits: int) -> tuple[tuple[int, ...], int]:
    """Signed multipliers of several factors over one shift, the largest of `bits` bits: sums are rounded once.

    Raises UserError for a factor that takes more bits, or is no number.

    >>> shared_shift((0.5, -0.25), 4)
    ((8, -4), 4)
    """
    largest = max(abs(factor) for factor in factors)
    if not all(abs(factor) < 2.0 ** (bits - 1) for factor in factors):
        raise UserError(f"a factor of {largest:g} between two scales takes more than {bits} bits; {CALIBRATED}")
    exponent = frexp(largest)[1]
    shift = min(max(bits - exponent, 1), LARGEST_SHARED_SHIFT)
    return tuple(round(factor * 2**shift) for factor in factors), shift
