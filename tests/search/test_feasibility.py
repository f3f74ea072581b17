"""Reachable ranges against brute force; an impossible budget is refused in one line, and its nearest is feasible."""

from typing import ClassVar

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pocketpipe.budget import Budget
from pocketpipe.buffers import Axis, Buffer
from pocketpipe.errors import UserError
from pocketpipe.search.feasibility import reach, refuse_impossible
from pocketpipe.search.proposal import on_budget, uniform_parameters
from search.synthetic import Bits, Widths, chain

PROFILE = chain(groups=6)
DENSE = PROFILE.cost()
SMALLEST = PROFILE.cost({group.name: 6 for group in PROFILE.groups})  # round(64 * 0.1) channels


def test_range_is_the_smallest_network():
    found = reach(PROFILE, [Widths()], Budget(speedup=2))
    assert found.smallest == SMALLEST
    by_name = {entry.requirement: entry for entry in found.ranges}
    assert by_name["speedup"].tightest == pytest.approx(DENSE.macs / SMALLEST.macs, rel=0.01)
    assert by_name["speedup"].tightest <= DENSE.macs / SMALLEST.macs
    assert by_name["compression"].tightest == pytest.approx(DENSE.file_bytes / SMALLEST.file_bytes, rel=0.01)
    assert by_name["compression"].asked is None
    assert found.feasible
    assert found.nearest == {"speedup": 2}


def test_bits_reach_bytes_but_not_macs():
    found = reach(PROFILE, [Bits()], Budget(compression=3))
    tightest = {entry.requirement: entry.tightest for entry in found.ranges}
    assert tightest["speedup"] == 1.0
    assert 3.8 < tightest["compression"] < 4.0
    assert found.feasible
    assert not reach(PROFILE, [Bits()], Budget(speedup=1.1)).feasible


def test_both_methods_reach_further_than_each():
    def compression(*methods):
        return reach(PROFILE, methods, Budget(speedup=1)).ranges[1].tightest

    assert compression(Widths(), Bits()) > max(compression(Widths()), compression(Bits()))


def test_impossible_is_one_line_with_asked_reachable_and_nearest():
    with pytest.raises(UserError) as caught:
        refuse_impossible(PROFILE, [Widths()], Budget(speedup=400, compression=2.0))
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith("budget.speedup: 400x asked, 1..")
    assert "x reachable with" in line
    assert "with methods [search.synthetic:Widths]" in line
    assert "nearest feasible budget: {speedup: " in line
    assert "compression: 2}" in line


def test_absolute_terms_are_told_in_their_own_unit():
    with pytest.raises(UserError, match=rf"budget\.macs: 1,000 asked, {SMALLEST.macs:,}\.\.{DENSE.macs:,} reachable"):
        refuse_impossible(PROFILE, [Widths()], Budget(macs=1000))


def test_where_nothing_saves_macs_that_is_said():
    with pytest.raises(UserError, match="none of these methods saves MACs, add channels or blocks") as caught:
        refuse_impossible(PROFILE, [Bits()], Budget(speedup=2))
    assert "nearest feasible" not in str(caught.value)


def test_where_nothing_saves_ram_that_is_said():
    buffers = (Buffer(axes=(Axis(fixed=3 * 1024),), last=1), Buffer(axes=(Axis(fixed=10),), last=2))
    profile = PROFILE.model_copy(update={"buffers": buffers})
    with pytest.raises(UserError, match="; to save RAM, add channels or blocks"):
        refuse_impossible(profile, [Bits()], Budget(ram_kb={"cortex_m": 10}))


def test_what_makes_the_file_larger_reaches_less_than_once():
    class Heavier(Bits):
        kind: ClassVar[str] = "search.test_feasibility:Heavier"

        def predict(self, profile):
            return profile.with_layers({layer.name: {"side_bytes": 10**6} for layer in profile.layers})

    with pytest.raises(UserError, match=r"budget\.compression: 2x asked, 0\.\d+\.\.1x reachable") as caught:
        refuse_impossible(PROFILE, [Heavier()], Budget(compression=2))
    assert "nearest feasible" not in str(caught.value)


def test_what_a_device_cannot_hold_is_told_by_target_in_kb():
    buffers = (Buffer(axes=(Axis(fixed=3 * 1024),), last=1), Buffer(axes=(Axis(fixed=10),), last=2))
    profile = PROFILE.model_copy(update={"buffers": buffers})  # 4 bytes each: 12 kB that no method makes smaller
    budget = Budget(flash_kb={"cortex_m": 64, "fpga": 7}, ram_kb={"cortex_m": 10})
    with pytest.raises(UserError) as caught:
        refuse_impossible(profile, [Widths()], budget)
    line = str(caught.value)
    assert 4 * 9 * (3 * 6 + 5 * 6 * 6) + 1536 + 2 * 68 == 8800  # bytes of the smallest weights, and code
    assert "budget.flash_kb.fpga: 7 asked, 8.6..728.4 reachable; " in line
    assert 2 * 4 * (3 * 1024 + 10) + 24 + 2 * 1024 == 26_728  # working memory in lines of 64 bytes, both ends, stack
    assert "budget.ram_kb.cortex_m: 10 asked, 26.2..26.2 reachable with" in line
    assert "nearest feasible budget: {flash_kb.cortex_m: 64, flash_kb.fpga: 8.6, ram_kb.cortex_m: 26.2}" in line
    assert refuse_impossible(profile, [Widths()], Budget(flash_kb={"fpga": 8.6}, ram_kb={"fpga": 26.2})).feasible


@settings(max_examples=40, deadline=None)
@given(
    groups=st.integers(1, 5),
    channels=st.integers(4, 80),
    speedup=st.floats(1, 500),
    compression=st.one_of(st.none(), st.floats(1, 500)),
)
def test_the_nearest_budget_is_feasible_and_feasible_means_that_a_plan_exists(groups, channels, speedup, compression):
    profile = chain(groups, channels)
    found = reach(profile, [Widths()], Budget(speedup=speedup, compression=compression))
    assume(found.nearest)
    nearest = Budget(**found.nearest)
    assert refuse_impossible(profile, [Widths()], nearest).feasible
    limits = nearest.limits(profile.cost())
    plan = on_budget([Widths()], uniform_parameters([Widths()], profile, limits), profile, limits)
    assert limits.keeps(plan.predict(profile).cost())
