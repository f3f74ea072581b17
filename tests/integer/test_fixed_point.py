"""The rounding rule against Python's unbounded integers and exact fractions."""

from fractions import Fraction
from math import floor, isqrt, nextafter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketpipe.errors import UserError
from pocketpipe.integer.fixed_point import (
    fixed_point,
    over_root,
    requantization,
    scaled,
    shared_shift,
    square_root,
)

INT32 = st.integers(-(2**31), 2**31 - 1)


@given(st.integers(-(2**62) + 2**61, 2**62 - 2**61), st.integers(1, 62))
def test_the_rule_is_floor_of_the_exact_quotient_plus_a_half(product: int, shift: int) -> None:
    exact = floor(Fraction(product, 2**shift) + Fraction(1, 2))
    assert int(scaled(np.array(product, np.int64), shift)) == exact


@given(st.floats(2.0**-31, 2.0**30 - 1))
def test_a_factor_is_met_to_31_bits(factor: float) -> None:
    multiplier, shift = fixed_point(factor)
    assert 2**30 <= multiplier < 2**31
    assert 1 <= shift <= 62
    assert abs(Fraction(multiplier, 2**shift) / Fraction(factor) - 1) <= Fraction(1, 2**31)


def test_a_factor_below_all_results_is_zero() -> None:
    multiplier, shift = fixed_point(2.0**-40)
    assert (multiplier * (2**31 - 1) + 2 ** (shift - 1)) >> shift == 0


@pytest.mark.parametrize("factor", [2.0**30, nextafter(2.0**30, 0), 2.0**31, -0.1, float("nan"), float("inf")])
def test_a_factor_that_has_no_form_is_refused(factor: float) -> None:
    with pytest.raises(UserError, match="cannot be written as multiplier and shift"):
        fixed_point(factor)


@given(st.lists(st.floats(1e-6, 100.0), min_size=1, max_size=4), INT32, st.integers(-128, 127))
def test_requantization_rounds_each_channel_by_its_own_factor(factors: list[float], acc: int, zero: int) -> None:
    requantize = requantization(np.array(factors), zero, -128, 127)
    found = requantize(np.full((1, len(factors)), acc))[0]
    for value, factor in zip(found, factors, strict=True):
        multiplier, shift = fixed_point(factor)
        exact = floor(Fraction(acc * multiplier, 2**shift) + Fraction(1, 2)) + zero
        assert value == min(max(exact, -128), 127)


FACTORS = st.floats(1e-3, 2.0**20, exclude_max=True)


@given(st.lists(FACTORS | FACTORS.map(lambda factor: -factor), min_size=1, max_size=2))
def test_factors_over_a_shared_shift_sum_within_32_bits(factors: list[float]) -> None:
    multipliers, shift = shared_shift(tuple(factors), 21)
    assert 255 * sum(map(abs, multipliers)) + 2 ** (shift - 1) < 2**31
    largest = max(map(abs, factors))
    for factor, multiplier in zip(factors, multipliers, strict=True):
        assert abs(Fraction(multiplier, 2**shift) - Fraction(factor)) <= Fraction(largest) / 2**20


@pytest.mark.parametrize("factors", [(2.0**20,), (0.5, -(2.0**21)), (1.0, float("nan")), (float("-inf"), 1.0)])
def test_factors_whose_sum_could_leave_32_bits_are_refused(factors: tuple[float, ...]) -> None:
    with pytest.raises(UserError, match=r"between two scales takes more than 21 bits; is the network calibrated\?"):
        shared_shift(factors, 21)


@given(st.one_of(st.integers(0, 2**62 - 1), st.integers(0, 2**31 - 1).map(lambda root: root**2)))
def test_a_root_is_the_largest_integer_below(square: int) -> None:
    for near in (square, max(square - 1, 0)):
        assert int(square_root(np.array([near], np.int64))[0]) == isqrt(near)


@given(st.integers(1, 2**15), st.integers(0, 2**32), st.floats(-1, 1))
def test_a_quotient_by_a_root_is_within_one_unit(width: int, more: int, share: float) -> None:
    """|value| <= sqrt(width * square): no number deviates more from the mean of so many."""
    square = width * 256 + more
    value = int(share * min(isqrt(width * square), 2**23 - 1))
    found = int(over_root(np.array([value], np.int64), np.array([square], np.int64))[0])
    assert abs(found - value / square**0.5 * 2**16) <= 0.5 + abs(value / square**0.5) * 2.0**-12
