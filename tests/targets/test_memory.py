"""The memory plan: nothing that lives at the same time overlaps, and little is wasted."""

from itertools import permutations

from hypothesis import given, settings
from hypothesis import strategies as st

from pocketpipe.targets.lowering.memory import ALIGNMENT, Interval, _placed, aligned, plan

intervals = st.lists(
    st.tuples(st.integers(1, 500), st.integers(0, 12), st.integers(0, 6)).map(
        lambda drawn: (drawn[0], drawn[1], drawn[1] + drawn[2])
    ),
    min_size=1,
    max_size=25,
).map(lambda drawn: [Interval(f"value{i}", *numbers) for i, numbers in enumerate(drawn)])


@given(intervals)
def test_no_two_values_of_one_time_overlap(values: list[Interval]) -> None:
    offsets, size = plan(values)
    for i, one in enumerate(values):
        assert offsets[one.name] % ALIGNMENT == 0
        assert offsets[one.name] + one.size <= size
        for other in values[:i]:
            apart = (
                offsets[one.name] + one.size <= offsets[other.name]
                or offsets[other.name] + other.size <= offsets[one.name]
            )
            assert apart or one.last < other.first or other.last < one.first


@given(intervals)
def test_arena_is_between_the_most_that_lives_at_once_and_all(values: list[Interval]) -> None:
    _, size = plan(values)
    at_once = max(sum(v.size for v in values if v.first <= step <= v.last) for step in range(20))
    assert at_once <= size <= sum(aligned(v.size) for v in values)


@settings(deadline=None, max_examples=50)
@given(intervals.filter(lambda values: len(values) <= 5))
def test_few_values_lie_as_closely_as_any_order_lays_them(values: list[Interval]) -> None:
    """Brute force over all orders in which values take the lowest free place."""
    _, size = plan(values)
    assert size == min(_placed(order)[1] for order in permutations(values))


def test_a_large_value_in_the_middle_leaves_no_gap() -> None:
    """Laid by size alone, these take 1,600 bytes, 128 more than ever live at once."""
    sizes = [320, 320, 384, 448, 384, 448, 192, 384]
    times = [(0, 3), (1, 4), (2, 3), (3, 6), (4, 5), (5, 8), (6, 7), (7, 9)]
    values = [Interval(f"v{i}", size, *time) for i, (size, time) in enumerate(zip(sizes, times, strict=True))]
    assert plan(values)[1] == max(sum(v.size for v in values if v.first <= s <= v.last) for s in range(10)) == 1472


def test_order_of_the_values_does_not_matter() -> None:
    values = [Interval(f"v{i}", 64 * (i % 3 + 1), i, i + 2) for i in range(8)]
    assert plan(values) == plan(values[::-1])
