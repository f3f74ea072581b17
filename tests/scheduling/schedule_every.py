"""Scheduler process of the tests: `schedule_every.py LOCK TIMES SECONDS GRACE COMMAND...`."""

import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pocketpipe.scheduling.foreground import run_schedule


@dataclass
class Every:
    """So many ticks, so far apart: finer than cron's minutes."""

    times: int
    apart: timedelta
    start: datetime = field(default_factory=lambda: datetime.now(UTC))

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        ticks = (self.start + self.apart * index for index in range(self.times))
        return next((tick for tick in ticks if previous_fire_time is None or tick > previous_fire_time), None)


if __name__ == "__main__":
    lock, times, seconds, grace, *command = sys.argv[1:]
    every = Every(int(times), timedelta(seconds=float(seconds)), datetime.now(UTC) + timedelta(seconds=0.1))
    sys.exit(run_schedule(every, command, lock=Path(lock), grace=float(grace)))
