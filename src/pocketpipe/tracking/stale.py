"""Runs that a killed process left open: found by the process that they name, closed as KILLED."""

import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pocketpipe import machine
from pocketpipe.tracking import entries
from pocketpipe.tracking.store import Store

if TYPE_CHECKING:
    from mlflow.entities import Run

HOST, PROCESS, SPACE = "process.host", "process.id", "process.space"
PARENT = "mlflow.parentRunId"
REASON = "the process ended without a word (killed, or the machine went down)"


def process_tags() -> dict[str, str]:
    """Tags by which a later process on this host can tell whether this one still lives."""
    return {HOST: socket.gethostname(), PROCESS: f"{os.getpid()} {_start_of(os.getpid())}", SPACE: _space()}


def close_stale_runs(store: Store) -> tuple[str, ...]:
    """Mark RUNNING runs of this host's dead processes as KILLED; their ids. Their end is their last sign of life.

    What runs in another container of the same name is not judged: its process ids mean something else there.
    """
    host = socket.gethostname()
    running = _search(store, f"attributes.status = 'RUNNING' and tags.\"{HOST}\" = '{host}'")
    ours = [run for run in running if run.data.tags.get(SPACE, _space()) == _space()]
    dead = [run for run in ours if not _lives(run.data.tags.get(PROCESS, ""))]
    for run in dead:
        entries.log(store.client, run.info.run_id, tags={"error": REASON})
        store.client.set_terminated(run.info.run_id, "KILLED", end_time=_last_sign_of_life(store, run))
    return tuple(run.info.run_id for run in dead)


def _space() -> str:
    """In which container process ids are counted; the machine may have been started anew since."""
    place = Path("/proc/self/ns/pid")
    return str(place.stat().st_ino) if place.exists() else ""


def _lives(process: str) -> bool:
    pid, _, start = process.partition(" ")
    return pid.isdigit() and _start_of(int(pid)) == start != ""


def _start_of(pid: int) -> str:
    """When the process started (boot, and clock ticks since: a reused id is another process); "" if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        gone = Path("/proc/self/stat").exists() or not machine.runs_here(pid)
        return "" if gone else "alive"
    return "" if fields[0] in "ZX" else f"{boot[:8]} {fields[19]}"


def _last_sign_of_life(store: Store, run: "Run") -> int:
    signs: list[int] = [run.info.start_time]
    for name in run.data.metrics:
        signs += [point.timestamp for point in store.client.get_metric_history(run.info.run_id, name)]
    for child in _search(store, f"tags.\"{PARENT}\" = '{run.info.run_id}'"):
        signs.append(child.info.end_time or _last_sign_of_life(store, child))
    return max(signs)


def _search(store: Store, condition: str) -> "Iterable[Run]":
    token: str | None = None
    while True:
        page = store.client.search_runs([store.experiment_id], condition, page_token=token)
        yield from page
        token = page.token
        if not token:
            return
