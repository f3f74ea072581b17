"""The memory plan: nothing that lives at the same time overlaps, and little is wasted."""

from hypothesis import given
from hypothesis import strategies as st

from pocketpipe.targets.lowering.memory import ALIGNMENT, Interval, aligned, plan

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


def test_order_of_the_values_does_not_matter() -> None:
    values = [Interval(f"v{i}", 64 * (i % 3 + 1), i, i + 2) for i in range(8)]
    assert plan(values) == plan(values[::-1])
