"""A search that was killed (SIGKILL, in its own process) ends in the very trials of an uninterrupted one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("resumable.py")


def start(folder: Path, pause: float, tuner: str) -> subprocess.Popen:
    folder.mkdir(exist_ok=True)
    environment = {
        **os.environ,
        "PYTHONPATH": str(SCRIPT.parents[1]),
        "OMP_NUM_THREADS": "1",
        "PYTHONHASHSEED": "random",
    }
    return subprocess.Popen([sys.executable, str(SCRIPT), str(folder), str(pause), tuner], env=environment)


def lines(folder: Path) -> int:
    path = folder / "trials.jsonl"
    return path.read_bytes().count(b"}\n") if path.exists() else 0


def kill_after(process: subprocess.Popen, folder: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while lines(folder) < count and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    assert process.poll() is None, "it ended before it was killed"
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize("tuner", ["tpe", "evolution"])
def test_killed_twice_ends_in_the_same_trials(tmp_path: Path, tuner: str):
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    uninterrupted = start(straight, 0.0, tuner)
    kill_after(start(broken, 0.05, tuner), broken, 6)
    with (broken / "trials.jsonl").open("ab") as file:
        file.write(b'\n{"proposal": "[{\\"kind')  # as a kill in the middle of a write leaves it
    finalist = 1 + 14 + 3 + 3 + 1  # killed when the first finalist is stored
    kill_after(start(broken, 0.05, tuner), broken, finalist)
    assert start(broken, 0.0, tuner).wait() == 0
    assert uninterrupted.wait() == 0
    assert (broken / "result.json").read_bytes() == (straight / "result.json").read_bytes()
    for name in ("calls", "tunings"):  # each kill costs at most the one measurement that it fell into
        once = len((straight / name).read_text())
        assert once <= len((broken / name).read_text()) <= once + 2
