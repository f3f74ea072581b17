"""A schedule in the foreground: each tick starts one run as a child process.

One scheduler at a time for each lock file, and one run at a time: a run holds a lock of its own (`<lock>.run`), so that
what a killed scheduler left running is not joined by a second one. Ticks that pass while a run goes on, or while the
machine sleeps, are made up for by one run; ticks that pass while no scheduler is there are not.

Stopping (SIGINT, SIGTERM, SIGHUP): the run is sent SIGTERM and given `grace` seconds; then, or on a second signal, it
is killed with all that it started. A stage goes on where it stopped at the next run, so nothing is lost but the time.
"""

import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic

from pocketpipe.errors import UserError
from pocketpipe.scheduling.child import Child
from pocketpipe.scheduling.cron import Cron, Trigger
from pocketpipe.scheduling.lock import Busy, only_one
from pocketpipe.scheduling.signals import Signals

EXIT_BUSY = 75
"""Another scheduler holds the lock (EX_TEMPFAIL: trying again later may work)."""
EXIT_KILLED = 137
"""Stopped, and the run had to be killed."""

LONGEST_PAUSE = 30.0
"""Seconds. The kernel's timers stand still while a machine sleeps, so the clock is looked at this often."""
SET_BACK = 60.0
"""Seconds. By less a clock is set back that is kept right; the tick that has just been must not come twice for that."""


def run_schedule(
    cron: str | Trigger,
    command: Sequence[str],
    *,
    lock: Path,
    grace: float = 60.0,
    say: Callable[[str], None] | None = None,
    now: Callable[[], datetime] | None = None,
    pause: Callable[[float], None] | None = None,
) -> int:
    """Run `command` at the times of `cron` until told to stop; returns the exit code.

    0: stopped in peace, or no tick will come any more; EXIT_BUSY: another scheduler is at work; EXIT_KILLED.
    A run that fails is told and does not stop the schedule.
    `say` prints a line; `now` and `pause` are the clock (pause ends early on a signal).
    Raises UserError for a bad expression or a command that cannot be started.
    """
    trigger = Cron.parse(cron).trigger() if isinstance(cron, str) else cron
    say = say or _print
    try:
        with only_one(lock, "a scheduler"), Signals() as signals:
            schedule = _Schedule(
                trigger=trigger,
                start=lambda descriptor: Child(command, keep_open=[descriptor]),
                run_lock=lock.with_name(f"{lock.name}.run"),
                grace=grace,
                say=say,
                now=now or (lambda: datetime.now(UTC)),
                pause=pause or signals.pause,
                signals=signals,
            )
            return schedule.keep()
    except Busy as busy:
        say(str(busy))
        return EXIT_BUSY


def latest_due(trigger: Trigger, due: datetime, now: datetime) -> tuple[datetime, int]:
    """(last tick at or before `now`, number of ticks from `due` on that it makes up for); `due` is a tick itself."""
    passed = 0
    following = trigger.get_next_fire_time(due, now)
    while following is not None and following <= now:
        due, passed = following, passed + 1
        following = trigger.get_next_fire_time(due, now)
    return due, passed


@dataclass
class _Schedule:
    trigger: Trigger
    start: Callable[[int], Child]
    """Starts the command; its argument is a descriptor that the command keeps open."""
    run_lock: Path
    grace: float
    say: Callable[[str], None]
    now: Callable[[], datetime]
    pause: Callable[[float], None]
    signals: Signals
    has_run: bool = False
    """Then the command can be started, and what keeps it from that now will pass (no memory for a process, say)."""

    def keep(self) -> int:
        """Run at each tick until a stop; returns the exit code."""
        due = self.trigger.get_next_fire_time(None, self.now())
        while due is not None:
            self._announce(due)
            due = self._wait_until(due)
            if self.signals.stops:
                self.say("stopped; nothing was running")
                return 0
            due, passed = latest_due(self.trigger, due, self.now())
            if passed:
                self.say(f"{passed + 1} ticks have passed; one run makes up for them")
            killed = self._run()
            if self.signals.stops:
                self.say("stopped; the run was killed" if killed else "stopped; the run has ended")
                return EXIT_KILLED if killed else 0
            due = self.trigger.get_next_fire_time(due, max(due, self.now()))  # clocks can be set back
        self.say("no run is due any more")
        return 0

    def _announce(self, due: datetime) -> None:
        now = self.now()
        if due > now:
            self.say(f"next run: {_clock_time(due)} (in {_duration(due - now)})")

    def _wait_until(self, due: datetime) -> datetime:
        """Wait for the tick `due`, or for the one that is the next since the clock was set back; that tick."""
        before = self.now()
        while not self.signals.stops and (left := (due - (now := self.now())).total_seconds()) > 0:
            if (before - now).total_seconds() > SET_BACK:
                due = self.trigger.get_next_fire_time(None, now) or due
                self.say("the clock was set back")
                self._announce(due)
                left = (due - now).total_seconds()
            before = now
            self.pause(min(left, LONGEST_PAUSE))
        return due

    def _run(self) -> bool:
        """One run, from start to end; returns whether it had to be killed."""
        try:
            with only_one(self.run_lock, "a run that an earlier scheduler left") as lock:
                started = self.now()
                with self.start(lock.descriptor) as child:
                    lock.name_holder(child.pid)
                    self.say(f"run started: {_clock_time(started)} (process {child.pid})")
                    killed = self._see_through(child)
                code = child.exit_code
        except Busy as busy:
            self.say(f"{busy}; this tick is left out")
            return False
        except UserError as error:
            if not self.has_run:
                raise
            self.say(f"{error}; this tick is left out")
            return False
        self.has_run = True
        result = (
            "succeeded" if code == 0 else f"failed with exit code {code}" if code > 0 else f"ended by {_name(-code)}"
        )
        self.say(f"run {result} after {_duration(self.now() - started)}")
        return killed

    def _see_through(self, child: Child) -> bool:
        """Wait for the end of a run, or bring it about; returns whether it had to be killed."""
        while not child.has_ended() and not self.signals.stops:
            self.pause(LONGEST_PAUSE)
        if child.has_ended():
            return False
        self.say(f"stopping: the run has {self.grace:g} seconds to end; a second signal kills it")
        child.signal_group(signal.SIGTERM)
        deadline = monotonic() + self.grace  # whatever happens to the clock
        while not child.has_ended():
            left = deadline - monotonic()
            if left <= 0 or self.signals.stops > 1:
                child.signal_group(signal.SIGKILL)
                return True
            self.pause(min(left, LONGEST_PAUSE))
        return False


def _print(line: str) -> None:
    with suppress(OSError):  # the terminal was closed: there is nobody to tell, and a run to see to its end
        print(line, flush=True)


def _clock_time(moment: datetime) -> str:
    return f"{moment.astimezone():%a %Y-%m-%d %H:%M:%S %Z}"


def _duration(span: timedelta) -> str:
    """
    >>> _duration(timedelta(seconds=42)), _duration(timedelta(hours=15, minutes=27)), _duration(timedelta(days=2))
    ('42 s', '15 h 27 min', '2 d 0 h')
    """
    seconds = round(span.total_seconds())
    if seconds < 120:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    if seconds < 86400:
        return f"{seconds // 3600} h {seconds % 3600 // 60} min"
    return f"{seconds // 86400} d {seconds % 86400 // 3600} h"


def _name(number: int) -> str:
    return signal.Signals(number).name
