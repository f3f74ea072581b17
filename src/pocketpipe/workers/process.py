"""Start processes that do a piece of work, wait for them, and bring their results or their first error home.

The same command runs under torchrun on several nodes (each rank writes its own result file):

    torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint HOST:PORT \\
        -m pocketpipe.workers package.module:function SPEC 'FOLDER/result-{rank}.json'
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketpipe.errors import UserError
from pocketpipe.storage import write_json

PARENT_VARIABLE = "POCKETPIPE_PARENT"
"""Environment variable with the id of the process that a worker must not outlive."""

POLL_SECONDS = 0.02
GRACE_SECONDS = 3.0
"""Between asking the other ranks to end and killing them."""


class WorkerError(UserError):
    """A worker process failed: which rank, its error, and where its log is."""

    kind: str = ""
    """Name of the class of its error; empty if it left no word."""


@dataclass(frozen=True)
class _Rank:
    number: int
    process: subprocess.Popen[bytes]
    log: Path
    result: Path


def run_worker(
    function: str,
    spec: Mapping[str, Any],
    folder: Path,
    *,
    processes: int = 1,
    environment: Mapping[str, str] | None = None,
    while_waiting: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """Call `function` ("package.module:function", dict -> dict) in new processes; their results in order of rank.

    All of them get the same spec. With several, torchrun's variables (RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR,
    MASTER_PORT ...) tell each its place. `folder` receives spec, results and a log for each rank. Workers end with this
    process, whatever ends it. `while_waiting` is called again and again until they are done.
    Raises WorkerError as soon as one fails, after ending the others.
    """
    spec_file = write_spec(spec, folder)
    common = {**os.environ, **(environment or {}), PARENT_VARIABLE: str(os.getpid())}
    if processes > 1:
        common |= _rendezvous(processes)
    ranks: list[_Rank] = []
    try:
        for number in range(processes):
            ranks.append(_start(number, function, spec_file, folder, common))
        _wait(ranks, while_waiting)
        while_waiting()
    finally:
        _end(ranks)
    return [json.loads(rank.result.read_text())["result"] for rank in ranks]


def write_spec(spec: Mapping[str, Any], folder: Path) -> Path:
    """Write the spec file into `folder`, and remove what workers have left there before."""
    for old in (*folder.glob("result-*.json"), *folder.glob("rank-*.log")):
        old.unlink()
    file = folder.absolute() / "spec.json"
    write_json(file, spec)
    return file


def first_error(folder: Path) -> WorkerError | None:
    """The first error that workers started from outside (by torchrun) have left in `folder`; None if there is none."""
    failed = [file for file in folder.glob("result-*.json") if "error" in _said(file)]
    if not failed:
        return None
    first = min(failed, key=_written)
    return _told(f"rank {first.stem.removeprefix('result-')}", _said(first))


def _start(number: int, function: str, spec: Path, folder: Path, common: dict[str, str]) -> _Rank:
    log = folder / f"rank-{number}.log"
    command = [sys.executable, "-m", "pocketpipe.workers", function, str(spec)]
    command.append(str(folder.absolute() / "result-{rank}.json"))
    own = {"RANK": str(number), "LOCAL_RANK": str(number)}
    with log.open("wb") as output:
        # A group of its own: Ctrl-C in the terminal reaches the parent alone, which ends all of them in order.
        process = subprocess.Popen(
            command,
            env=common | own,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
    return _Rank(number, process, log, folder / f"result-{number}.json")


def _rendezvous(processes: int) -> dict[str, str]:
    """torchrun's variables for ranks on this machine, which find each other through the loopback interface."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    if sys.platform.startswith("linux"):
        variables["GLOO_SOCKET_IFNAME"] = "lo"  # otherwise Gloo asks for the host's own name, which may not resolve
    return variables


def _wait(ranks: Sequence[_Rank], while_waiting: Callable[[], None]) -> None:
    running = list(ranks)
    while running:
        ended = [rank for rank in running if rank.process.poll() is not None]
        failed = [rank for rank in ended if rank.process.returncode != 0]
        if failed:
            raise _error(min(failed, key=lambda rank: _written(rank.result)), len(ranks))
        running = [rank for rank in running if rank not in ended]
        while_waiting()
        time.sleep(POLL_SECONDS)


def _written(result: Path) -> float:
    """Orders ranks by their end, which makes the others fail too: one without a last word was killed, and so was
    first."""
    return result.stat().st_mtime if result.exists() else 0.0


def _said(result: Path) -> dict[str, Any]:
    """What a worker wrote at its end; nothing if it did not come to that."""
    said: dict[str, Any] = json.loads(result.read_text()) if result.exists() else {}
    return said


def _told(who: str, said: Mapping[str, Any], where: str = "") -> WorkerError:
    error = WorkerError(f"{who}: {said['error']}{where}")
    error.kind = said["kind"]
    return error


def _error(rank: _Rank, processes: int) -> WorkerError:
    who = f"rank {rank.number}" if processes > 1 else "worker"
    if "error" in (said := _said(rank.result)):
        return _told(who, said, f" (log: {rank.log})")
    code = rank.process.returncode
    ending = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    lines = [line for line in rank.log.read_text(errors="replace").splitlines() if line.strip()]
    last = f"; its last line: {lines[-1].strip()}" if lines else ""
    return WorkerError(f"{who} {ending}{last} (log: {rank.log})")


def _end(ranks: Sequence[_Rank]) -> None:
    """End what is still running, and everything that was started."""
    for rank in ranks:
        _signal_group(rank, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    for rank in ranks:
        with suppress(subprocess.TimeoutExpired):
            rank.process.wait(max(0.0, deadline - time.monotonic()))
        _signal_group(rank, signal.SIGKILL)  # what it left behind, too
        rank.process.wait()


def _signal_group(rank: _Rank, which: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):  # all of the group is gone
        os.killpg(rank.process.pid, which)
