"""Cron's semantics against brute force over the calendar."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pocketpipe.errors import UserError
from pocketpipe.scheduling.cron import Cron, Trigger

BERLIN = ZoneInfo("Europe/Berlin")
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")


@st.composite
def fields(draw: st.DrawFn, low: int, high: int, names: tuple[str, ...] = ()) -> tuple[str, set[int]]:
    """(text of a cron field, the values that it means)."""
    form = draw(st.sampled_from(["*", "*/n", "values", "range", "range/n", "start/n"]))
    step = draw(st.integers(1, 12))
    first, last = sorted((draw(st.integers(low, high)), draw(st.integers(low, high))))
    if form == "*":
        return "*", set(range(low, high + 1))
    if form == "*/n":
        return f"*/{step}", {value for value in range(low, high + 1) if (value - low) % step == 0}
    if form == "range":
        return f"{first}-{last}", {value for value in range(low, high + 1) if first <= value <= last}
    if form == "range/n":
        return f"{first}-{last}/{step}", {
            v for v in range(low, high + 1) if first <= v <= last and not (v - first) % step
        }
    if form == "start/n":
        return f"{first}/{step}", {v for v in range(low, high + 1) if first <= v and not (v - first) % step}
    values = draw(st.sets(st.integers(low, high), min_size=1, max_size=4))
    return ",".join(names[value] if names and draw(st.booleans()) else str(value) for value in values), values


def first_by_brute_force(parts: list[tuple[str, set[int]]], start: datetime) -> datetime | None:
    (_, minutes), (_, hours), (day_text, days), (_, months), (weekday_text, weekdays) = parts
    weekdays = {day % 7 for day in weekdays}
    for offset in range(0, 366 * 9):
        date = (start + timedelta(days=offset)).date()
        day, weekday = date.day in days, date.isoweekday() % 7 in weekdays
        either = not day_text.startswith("*") and not weekday_text.startswith("*")
        if date.month not in months or not (day or weekday if either else day and weekday):
            continue
        for hour in sorted(hours):
            for minute in sorted(minutes):
                moment = datetime(date.year, date.month, date.day, hour, minute, tzinfo=UTC)
                if moment >= start:
                    return moment
    return None


@settings(deadline=None, max_examples=150)
@given(
    parts=st.tuples(fields(0, 59), fields(0, 23), fields(1, 31), fields(1, 12), fields(0, 7, (*WEEKDAYS, "sun"))),
    start=st.datetimes(datetime(2024, 1, 1), datetime(2028, 12, 31), timezones=st.just(UTC)),
)
def test_next_time_is_the_first_that_matches(parts: tuple[tuple[str, set[int]], ...], start: datetime) -> None:
    expected = first_by_brute_force(list(parts), start)
    assume(expected is not None)
    trigger = Cron.parse(" ".join(text for text, _ in parts)).trigger(UTC)
    assert trigger.get_next_fire_time(None, start) == expected


def times(trigger: Trigger, start: datetime, count: int) -> list[datetime]:
    found: list[datetime] = []
    for _ in range(count):
        moment = trigger.get_next_fire_time(*((found[-1], found[-1]) if found else (None, start)))
        assert moment is not None
        found.append(moment)
    return found


@pytest.mark.parametrize("number", range(8))
def test_weekday_numbers_count_from_sunday(number: int) -> None:
    for moment in times(Cron.parse(f"0 3 * * {number}").trigger(BERLIN), datetime(2026, 3, 1, tzinfo=BERLIN), 8):
        assert moment.strftime("%a").lower() == WEEKDAYS[number % 7]
        assert (moment.hour, moment.minute) == (3, 0)


def test_either_kind_of_day_is_enough_where_both_are_restricted() -> None:
    found = times(Cron.parse("0 0 13 * fri").trigger(UTC), datetime(2026, 1, 1, tzinfo=UTC), 60)
    assert all(moment.day == 13 or moment.isoweekday() == 5 for moment in found)
    assert any(moment.day == 13 and moment.isoweekday() != 5 for moment in found)
    assert any(moment.day != 13 for moment in found)
    assert found == sorted(set(found))


def test_nicknames() -> None:
    assert Cron.parse("@weekly") == Cron.parse("0 0 * * 0") == Cron.parse("0 0 * * 7") == Cron.parse("0 0 * * SUN")


def test_skipped_and_doubled_hours() -> None:
    nightly = Cron.parse("30 2 * * *").trigger(BERLIN)
    spring = times(nightly, datetime(2026, 3, 28, 12, tzinfo=BERLIN), 2)
    assert [moment.astimezone(UTC).strftime("%d %H:%M") for moment in spring] == ["29 01:30", "30 00:30"]
    autumn = times(nightly, datetime(2026, 10, 24, 12, tzinfo=BERLIN), 3)
    assert [moment.astimezone(UTC).strftime("%d %H:%M") for moment in autumn] == ["25 00:30", "25 01:30", "26 01:30"]


@pytest.mark.parametrize(
    ("expression", "zone", "start", "expected"),
    [
        ("@weekly", "Atlantic/Azores", datetime(2026, 3, 28, 12), ["29 01:00", "05 00:00"]),  # a Sunday without 00:00
        ("30 1,2 * * *", "Europe/Berlin", datetime(2026, 3, 28, 12), ["29 01:30", "29 03:30", "30 01:30"]),
        (
            "*/30 2 * * *",
            "Europe/Berlin",
            datetime(2026, 10, 24, 12),
            ["25 02:00", "25 02:30", "25 02:00", "25 02:30", "26 02:00"],
        ),
    ],
)
def test_no_time_is_lost_or_out_of_order_when_clocks_change(
    expression: str, zone: str, start: datetime, expected: list[str]
) -> None:
    there = ZoneInfo(zone)
    found = times(Cron.parse(expression).trigger(there), start.replace(tzinfo=there), len(expected))
    assert [moment.strftime("%d %H:%M") for moment in found] == expected
    instants = [moment.astimezone(UTC) for moment in found]
    assert instants == sorted(set(instants))


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("", "has 0 fields instead of 5"),
        ("0 3 * *", "has 4 fields instead of 5"),
        ("@dayly", "has 1 fields instead of 5: .*@daily"),
        ("60 3 * * *", "minute: '60' is outside 0-59"),
        ("0 24 * * *", "hour: '24' is outside 0-23"),
        ("0 3 0 * *", "day of the month: '0' is outside 1-31"),
        ("0 3 * 13 *", "month: '13' is outside 1-12"),
        ("0 3 * foo *", "month: 'foo' is no number, or one of jan"),
        ("0 3 * * 8", "day of the week: '8' is outside 0-7"),
        ("0 3 * * mon-", "day of the week: 'mon-' is not"),
        ("0 -3 * * *", "hour: '-3' is not"),
        ("0 5-3 * * *", "hour: '5-3' is a range that ends before it starts"),
        ("*/0 * * * *", "minute: '\\*/0' has a step of 0"),
        ("1,,2 * * * *", "minute: '' is not"),
        ("*-5 * * * *", "minute: '\\*-5' is not"),
        ("0 0 30 2 *", "day of the month: '30' never comes in month '2'"),
        ("0 0 31 4,6 *", "day of the month: '31' never comes in month '4,6'"),
    ],
)
def test_mistakes_name_their_field(expression: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Cron.parse(expression)


def test_a_zone_without_a_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    with pytest.raises(UserError, match=r"TZ='CET-1CEST,.*is no zone's name; set one, say Europe/Berlin"):
        Cron.parse("0 3 * * *").trigger()
