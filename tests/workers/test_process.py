"""run_worker: results in order, the first error with its rank, and no process that outlives its parent."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pocketpipe.workers.process import WorkerError, run_worker
from processes import alive


@pytest.fixture(autouse=True)
def _workers_find_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def test_one_worker_returns_its_result(tmp_path: Path) -> None:
    polled: list[int] = []
    assert run_worker("workers.work:double", {"number": 21}, tmp_path, while_waiting=lambda: polled.append(1)) == [
        {"number": 42}
    ]
    assert polled
    assert {file.name for file in tmp_path.iterdir()} == {"spec.json", "result-0.json", "rank-0.log"}


def test_what_a_worker_has_to_say_is_in_its_log(tmp_path: Path) -> None:
    run_worker("workers.work:say", {"words": "trains uncompiled"}, tmp_path)
    assert (tmp_path / "rank-0.log").read_text() == "trains uncompiled\n"


def test_ranks_are_told_their_place(tmp_path: Path) -> None:
    results = run_worker("workers.work:place", {}, tmp_path, processes=2, environment={"EXTRA": "yes"})
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "EXTRA": "yes"}
    assert results == [{**common, "RANK": rank, "LOCAL_RANK": rank} for rank in ("0", "1")]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("exception", r"rank 1: KeyError: 'the key' \(log: .*rank-1.log\)"),
        ("user error", r"rank 1: budget.speedup: 0.5 is below 1 \("),
        ("killed", r"rank 1 killed by SIGKILL; its last line: the last words \("),
    ],
)
def test_a_failing_rank_is_named_and_the_others_end(tmp_path: Path, how: str, message: str) -> None:
    started = time.monotonic()
    with pytest.raises(WorkerError, match=message):
        run_worker("workers.work:fail_in_one", {"how": how, "folder": str(tmp_path)}, tmp_path, processes=2)
    assert time.monotonic() - started < 20
    other = tmp_path / "pid-0"
    assert not other.exists() or not alive(int(other.read_text()))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")
def test_what_a_killed_rank_has_started_ends_too(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="killed by SIGKILL"):
        run_worker("workers.work:die_with_child", {"folder": str(tmp_path)}, tmp_path)
    assert within(5, lambda: not alive(int((tmp_path / "child").read_text())))


def test_a_function_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match=r"worker: AttributeError: .*'nothing'"):
        run_worker("workers.work:nothing", {}, tmp_path)


def test_a_result_of_an_earlier_run_is_not_taken_for_this_one(tmp_path: Path) -> None:
    run_worker("workers.work:double", {"number": 1}, tmp_path)
    with pytest.raises(WorkerError):
        run_worker("workers.work:nothing", {"number": 1}, tmp_path)
    with pytest.raises(WorkerError, match="exit code 1"):
        run_worker("workers.work:double", {"number": 1}, tmp_path, environment={"PYTHONHOME": "nowhere"})


PARENT = """
import sys
from pathlib import Path
from pocketpipe.workers.process import run_worker
folder = Path(sys.argv[1])
run_worker("workers.work:sleep_with_child", {"folder": str(folder)}, folder)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the death signal and /proc are Linux's")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent(tmp_path: Path, how: signal.Signals) -> None:
    pids_file = tmp_path / "pids"
    with subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], stderr=subprocess.DEVNULL) as parent:
        assert within(30, lambda: pids_file.exists() and len(pids_file.read_text().split()) == 2)
        worker, grandchild = map(int, pids_file.read_text().split())
        parent.send_signal(how)
        parent.wait(20)
    try:
        assert within(5, lambda: not alive(worker))
        if how is signal.SIGINT:  # the whole group is ended in order
            assert within(5, lambda: not alive(grandchild))
    finally:
        for pid in (worker, grandchild):
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
