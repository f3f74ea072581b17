"""Standard cron expressions, on APScheduler's clockwork.

APScheduler counts weekdays from Monday and wants both the day of the month and the weekday to match; cron counts from
Sunday and, where both are restricted, takes either. So the fields are read here, by cron's rules, and APScheduler is
given plain lists of values.

Times are wall-clock times: on the night when clocks go forward a time that is skipped comes an hour later, and on the
night when they go back a time that comes twice is taken twice.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Protocol

from pocketpipe.errors import UserError

_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
LARGEST_CHANGE = timedelta(hours=3)
"""Clocks go forward or back by less."""
_LONGEST = {month: 29 if month == 2 else 30 if month in (4, 6, 9, 11) else 31 for month in range(1, 13)}
_PART = re.compile(r"(?P<first>\*|\w+)(-(?P<last>\w+))?(/(?P<step>\d+))?")
_NICKNAMES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}


class Trigger(Protocol):
    """When to run; APScheduler's triggers are such."""

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        """First time after `previous_fire_time` (where None: at or after `now`); None = never again."""


@dataclass(frozen=True)
class _Field:
    name: str
    low: int
    high: int
    names: Mapping[str, int]

    def read(self, text: str) -> tuple[int, ...]:
        """Values that `text` stands for, sorted. Raises UserError."""
        values: set[int] = set()
        for part in text.split(","):
            values |= self._read_part(part)
        return tuple(sorted(values))

    def _read_part(self, part: str) -> set[int]:
        match = _PART.fullmatch(part)
        if match is None or (match["first"] == "*" and match["last"]):
            raise self._mistake(part, "is not *, a value, a range a-b, or one of these with /step")
        step = int(match["step"] or 1)
        if step == 0:
            raise self._mistake(part, "has a step of 0; it must be at least 1")
        if match["first"] == "*":
            first, last = self.low, self.high
        else:
            first = self._value(match["first"])
            open_end = match["last"] is None
            last = (self.high if match["step"] else first) if open_end else self._value(match["last"])
        if first > last:
            raise self._mistake(part, "is a range that ends before it starts")
        return set(range(first, last + 1, step))

    def _value(self, text: str) -> int:
        if text.lower() in self.names:
            return self.names[text.lower()]
        if not text.isdecimal():
            known = f", or one of {', '.join(self.names)}" if self.names else ""
            raise self._mistake(text, f"is no number{known}")
        if not self.low <= int(text) <= self.high:
            raise self._mistake(text, f"is outside {self.low}-{self.high}")
        return int(text)

    def _mistake(self, text: str, problem: str) -> UserError:
        return UserError(f"cron, {self.name}: {text!r} {problem}")


_FIELDS = (
    _Field("minute", 0, 59, {}),
    _Field("hour", 0, 23, {}),
    _Field("day of the month", 1, 31, {}),
    _Field("month", 1, 12, {name: number for number, name in enumerate(_MONTHS, start=1)}),
    _Field("day of the week", 0, 7, {name: number for number, name in enumerate(_WEEKDAYS)}),
)


@dataclass(frozen=True)
class Cron:
    """A cron expression, read: the values of each field, sorted; weekdays from 0 = Sunday.

    >>> Cron.parse("0 3 * * 5-7").weekdays
    (0, 5, 6)
    >>> Cron.parse("0 25 * * *")
    Traceback (most recent call last):
    pocketpipe.errors.UserError: cron, hour: '25' is outside 0-23
    """

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: tuple[int, ...]
    months: tuple[int, ...]
    weekdays: tuple[int, ...]
    either_day: bool
    """Both kinds of day are restricted: one match is enough."""

    @classmethod
    def parse(cls, expression: str) -> "Cron":
        """Read five fields (minute, hour, day of the month, month, day of the week), or a nickname like @daily.

        Raises UserError that names the field.
        """
        texts = _NICKNAMES.get(expression.strip().lower(), expression).split()
        if len(texts) != len(_FIELDS):
            raise UserError(
                f"cron: {expression!r} has {len(texts)} fields instead of {len(_FIELDS)}: "
                f"{', '.join(field.name for field in _FIELDS)} (or one of {', '.join(_NICKNAMES)})"
            )
        minutes, hours, days, months, weekdays = (field.read(text) for field, text in zip(_FIELDS, texts, strict=True))
        # As in cron, "*/2" is no restriction in this sense: then both must match.
        either = not texts[2].startswith("*") and not texts[4].startswith("*")
        if not either and min(days) > max(_LONGEST[month] for month in months):
            raise UserError(f"cron, day of the month: {texts[2]!r} never comes in month {texts[3]!r}")
        return cls(minutes, hours, days, months, tuple(sorted({day % 7 for day in weekdays})), either)

    def trigger(self, zone: tzinfo | None = None) -> Trigger:
        """The times, in `zone` (default: this machine's)."""
        from apscheduler.triggers.combining import OrTrigger
        from apscheduler.triggers.cron import CronTrigger

        often = {"minute": _listed(self.minutes), "hour": _listed(self.hours), "month": _listed(self.months)}
        day = {"day": _listed(self.days)}
        weekday = {"day_of_week": ",".join(_WEEKDAYS[number] for number in self.weekdays)}
        choices = ({**often, **day}, {**often, **weekday}) if self.either_day else ({**often, **day, **weekday},)
        hands = OrTrigger([CronTrigger(**fields, timezone=UTC) for fields in choices])
        try:
            return WallClock(hands, zone or CronTrigger().timezone)
        except LookupError as error:
            raise UserError(f"TZ={os.environ.get('TZ', '')!r} is no zone's name; set one, say Europe/Berlin") from error


@dataclass(frozen=True)
class WallClock:
    """A trigger in a time zone.

    APScheduler's own loses a time that lies in a skipped hour where it steps there by instants.
    """

    hands: Trigger
    """Where the clock's hands are to stand, as if they were UTC's."""
    zone: tzinfo

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        """As of any trigger."""
        after = (now if previous_fire_time is None else previous_fire_time).astimezone(UTC)
        shown = after.astimezone(self.zone).replace(tzinfo=UTC)
        first = self.hands.get_next_fire_time(shown if previous_fire_time is not None else None, shown)
        if first is None:
            return None
        there = first.replace(tzinfo=self.zone)
        if self._is_even(after) and self._is_even(there):
            return there
        return self._while_clocks_change(after, strictly=previous_fire_time is not None)

    def _is_even(self, moment: datetime) -> bool:
        """Whether no change of the clocks is near."""
        around = (moment.astimezone(UTC) + way * LARGEST_CHANGE for way in (-1, 0, 1))
        return len({each.astimezone(self.zone).utcoffset() for each in around}) == 1

    def _while_clocks_change(self, after: datetime, *, strictly: bool) -> datetime | None:
        """The earliest of all moments that the hands' positions around `after` stand for."""
        found: list[datetime] = []
        last_looked_at = None
        shown = self.hands.get_next_fire_time(None, after.astimezone(self.zone).replace(tzinfo=UTC) - LARGEST_CHANGE)
        while shown is not None and (last_looked_at is None or shown <= last_looked_at):
            moments = self._moments(shown.replace(tzinfo=None))
            found += [each for each in moments if each > after or (not strictly and each == after)]
            if found and last_looked_at is None:  # hands that stand later may come sooner, while clocks change
                last_looked_at = shown + LARGEST_CHANGE
            shown = self.hands.get_next_fire_time(shown, shown)
        return min(found).astimezone(self.zone) if found else None

    def _moments(self, shown: datetime) -> list[datetime]:
        """When the clock shows this, in UTC: twice where an hour comes twice; what is skipped, an hour later."""
        moments = [shown.replace(tzinfo=self.zone, fold=fold).astimezone(UTC) for fold in (0, 1)]
        is_skipped = moments[0].astimezone(self.zone).replace(tzinfo=None) != shown
        return moments[:1] if is_skipped else moments


def _listed(values: tuple[int, ...]) -> str:
    return ",".join(str(value) for value in values)
