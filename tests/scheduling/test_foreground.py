"""The schedule with real processes, and its decisions with a clock that is told the time."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pocketpipe.errors import UserError
from pocketpipe.scheduling.cron import Cron
from pocketpipe.scheduling.foreground import EXIT_BUSY, EXIT_KILLED, latest_due, run_schedule
from processes import alive

SCHEDULER = Path(__file__).with_name("schedule_every.py")
NIGHTLY = Cron.parse("0 3 * * *").trigger(UTC)


class Clock:
    """Time that passes only in `pause`, and jumps where it is told to."""

    def __init__(self, start: datetime, sleeps: dict[int, timedelta] | None = None) -> None:
        self.time = start
        self.pauses = 0
        self.sleeps = sleeps or {}

    def now(self) -> datetime:
        return self.time

    def pause(self, seconds: float) -> None:
        self.pauses += 1
        self.time += self.sleeps.get(self.pauses, timedelta(seconds=seconds))
        time.sleep(0.0002)


class Until:
    """A trigger that ends."""

    def __init__(self, expression: str, end: datetime) -> None:
        self.inner, self.end = Cron.parse(expression).trigger(UTC), end

    def get_next_fire_time(self, previous: datetime | None, now: datetime) -> datetime | None:
        found = self.inner.get_next_fire_time(previous, now)
        return found if found is not None and found <= self.end else None


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def schedule(started: list[subprocess.Popen[str]], *arguments: object) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, str(SCHEDULER), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"TZ": "Europe/Berlin"},
    )
    started.append(process)
    return process


def line_with(process: subprocess.Popen[str], text: str) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return line
    raise AssertionError(f"the scheduler ended without saying {text!r}")


def wait_for(condition: object, what: str) -> None:
    assert callable(condition)
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.02)


def pid_in(path: Path) -> int:
    wait_for(lambda: path.exists() and path.read_text().endswith("\n"), f"{path.name}")
    return int(path.read_text())


def test_runs_at_each_tick_and_goes_on_after_failures(tmp_path: Path) -> None:
    clock, lines = Clock(datetime(2026, 3, 1, 12, 30, tzinfo=UTC)), []
    trigger = Until("0 * * * *", datetime(2026, 3, 1, 15, 30, tzinfo=UTC))
    command = ["sh", "-c", f"echo x >> {tmp_path}/runs; exit 3"]
    code = run_schedule(trigger, command, lock=tmp_path / "lock", say=lines.append, now=clock.now, pause=clock.pause)
    assert code == 0
    assert (tmp_path / "runs").read_text() == "x\n" * 3
    assert sum("failed with exit code 3" in line for line in lines) == 3
    assert lines[0].startswith("next run: ")
    assert lines[0].endswith("(in 30 min 0 s)")
    assert lines[-1] == "no run is due any more"


def test_ticks_slept_through_are_one_run(tmp_path: Path) -> None:
    """The machine sleeps from before the first tick until after the fourth."""
    clock = Clock(datetime(2026, 3, 1, 2, 59, 50, tzinfo=UTC), sleeps={1: timedelta(days=3, hours=23)})
    lines: list[str] = []
    trigger = Until("0 3 * * *", datetime(2026, 3, 5, 12, tzinfo=UTC))
    run_schedule(
        trigger,
        ["sh", "-c", f"echo x >> {tmp_path}/runs"],
        lock=tmp_path / "lock",
        say=lines.append,
        now=clock.now,
        pause=clock.pause,
    )
    assert (tmp_path / "runs").read_text() == "x\n" * 2
    assert "4 ticks have passed; one run makes up for them" in lines


@pytest.mark.parametrize(("back", "runs"), [(timedelta(hours=3, minutes=29), 4), (timedelta(seconds=50), 1)])
def test_a_clock_that_was_set_back_while_waiting(tmp_path: Path, back: timedelta, runs: int) -> None:
    """Else a clock that was a year ahead would stop the schedule for a year. Hourly, until three in the night."""
    clock, lines = Clock(datetime(2026, 3, 3, 2, 59, tzinfo=UTC), sleeps={1: -back}), []
    trigger = Until("0 * * * *", datetime(2026, 3, 3, 3, tzinfo=UTC))
    command = ["sh", "-c", f"echo x >> {tmp_path}/runs"]
    run_schedule(trigger, command, lock=tmp_path / "lock", say=lines.append, now=clock.now, pause=clock.pause)
    assert (tmp_path / "runs").read_text() == "x\n" * runs
    assert ("the clock was set back" in lines) == (runs > 1)


def test_latest_due() -> None:
    first = datetime(2026, 3, 1, 3, tzinfo=UTC)
    assert latest_due(NIGHTLY, first, first) == (first, 0)
    assert latest_due(NIGHTLY, first, first + timedelta(hours=23)) == (first, 0)
    assert latest_due(NIGHTLY, first, first + timedelta(days=2, hours=1)) == (first + timedelta(days=2), 2)


def test_ticks_during_a_long_run_are_one_run(tmp_path: Path, started: list[subprocess.Popen[str]]) -> None:
    """10 ticks, 0.2 s apart; each run takes 0.7 s: never two at once, and about one for each 0.7 s."""
    command = ["sh", "-c", f"mkdir {tmp_path}/busy && sleep 0.7 && rmdir {tmp_path}/busy && echo x >> {tmp_path}/runs"]
    output, _ = schedule(started, tmp_path / "lock", 10, 0.2, 5, *command).communicate(timeout=30)
    runs = (tmp_path / "runs").read_text().count("x")
    assert 2 <= runs <= 4, output
    assert output.count("run succeeded") == runs
    assert "ticks have passed; one run makes up for them" in output
    assert "failed" not in output  # mkdir would have, had two been at work


def test_two_schedulers_one_works_one_says_so(tmp_path: Path, started: list[subprocess.Popen[str]]) -> None:
    first = schedule(started, tmp_path / "lock", 100, 1, 5, "true")
    line_with(first, "run started")
    second = schedule(started, tmp_path / "lock", 100, 1, 5, "true")
    output, _ = second.communicate(timeout=20)
    assert second.returncode == EXIT_BUSY
    assert output == f"a scheduler is at work already (process {first.pid}, lock {tmp_path / 'lock'})\n"
    line_with(first, "run started")


def test_killed_scheduler_frees_the_lock_and_its_run_is_not_joined(
    tmp_path: Path, started: list[subprocess.Popen[str]]
) -> None:
    pid_file = tmp_path / "pid"
    command = ["sh", "-c", f"echo $$ > {pid_file}; exec sleep 30"]
    first = schedule(started, tmp_path / "lock", 100, 0.3, 5, *command)
    line_with(first, "run started")  # by then the lock names the run
    run = pid_in(pid_file)
    first.kill()
    first.wait()
    second = schedule(started, tmp_path / "lock", 100, 0.3, 5, "true")
    assert f"a run that an earlier scheduler left is at work already (process {run}, " in line_with(second, "left out")
    assert alive(run)
    os.kill(run, signal.SIGTERM)
    assert "run succeeded" in line_with(second, "run succeeded")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_stop_ends_the_run_in_peace(
    tmp_path: Path, started: list[subprocess.Popen[str]], number: signal.Signals
) -> None:
    script = f"trap 'echo tidy > {tmp_path}/end; exit 0' TERM; echo $$ > {tmp_path}/pid; while :; do sleep 0.05; done"
    process = schedule(started, tmp_path / "lock", 100, 0.2, 20, "sh", "-c", script)
    run = pid_in(tmp_path / "pid")
    process.send_signal(number)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert (tmp_path / "end").read_text() == "tidy\n"
    assert not alive(run)
    assert output.endswith("stopped; the run has ended\n")


def test_stop_between_runs_is_immediate(tmp_path: Path, started: list[subprocess.Popen[str]]) -> None:
    process = schedule(started, tmp_path / "lock", 100, 60, 20, "true")
    line_with(process, "next run")
    line_with(process, "next run")
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=20)
    assert time.monotonic() - begin < 5
    assert (process.returncode, output) == (0, "stopped; nothing was running\n")


@pytest.mark.parametrize(("grace", "signals"), [(0.3, 1), (60, 2)])
def test_a_run_that_will_not_end_is_killed_with_its_children(
    tmp_path: Path, started: list[subprocess.Popen[str]], grace: float, signals: int
) -> None:
    script = f"trap '' TERM; sleep 30 & echo $! > {tmp_path}/inner; echo $$ > {tmp_path}/pid; while :; do sleep 1; done"
    process = schedule(started, tmp_path / "lock", 100, 0.2, grace, "sh", "-c", script)
    run, inner = pid_in(tmp_path / "pid"), pid_in(tmp_path / "inner")
    for _ in range(signals):
        process.send_signal(signal.SIGTERM)
        if signals > 1:
            time.sleep(0.3)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == EXIT_KILLED, output
    assert "ended by SIGKILL" in output
    wait_for(lambda: not alive(run) and not alive(inner), "the end of all processes")


def test_nothing_of_a_finished_run_is_left(tmp_path: Path, started: list[subprocess.Popen[str]]) -> None:
    script = f"sleep 30 & echo $! > {tmp_path}/inner"
    schedule(started, tmp_path / "lock", 1, 1, 5, "sh", "-c", script).communicate(timeout=20)
    inner = pid_in(tmp_path / "inner")
    wait_for(lambda: not alive(inner), "the end of the inner process")


def test_next_run_is_told_in_local_time_with_its_zone(tmp_path: Path, started: list[subprocess.Popen[str]]) -> None:
    line = line_with(schedule(started, tmp_path / "lock", 1, 1, 5, "true"), "next run: ")
    assert "CET" in line or "CEST" in line


def test_a_command_that_cannot_be_started_for_once_leaves_a_tick_out(tmp_path: Path) -> None:
    """No memory for a process at three in the morning, say; that it can be started was seen before."""
    clock, lines = Clock(datetime(2026, 3, 1, 12, 30, tzinfo=UTC)), []
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\necho x >> {tmp_path}/runs\nchmod a-x {program}\n")
    program.chmod(0o755)

    def say(line: str) -> None:
        lines.append(line)
        if "cannot start" in line:
            program.chmod(0o755)

    trigger = Until("0 */12 * * *", datetime(2026, 3, 3, 1, tzinfo=UTC))
    run_schedule(trigger, [str(program)], lock=tmp_path / "lock", say=say, now=clock.now, pause=clock.pause)
    assert (tmp_path / "runs").read_text() == "x\n" * 2
    assert f"cannot start {program}: Permission denied; this tick is left out" in lines


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cron, hour: '25' is outside 0-23"):
        run_schedule("0 25 * * *", ["true"], lock=tmp_path / "lock")
    assert list(tmp_path.iterdir()) == []
    clock = Clock(datetime(2026, 3, 1, 12, tzinfo=UTC))
    with pytest.raises(UserError, match="cannot start no-such-command"):
        run_schedule(
            NIGHTLY, ["no-such-command"], lock=tmp_path / "lock", say=[].append, now=clock.now, pause=clock.pause
        )
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
