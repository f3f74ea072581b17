"""The lock between real processes."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pocketpipe.errors import UserError
from pocketpipe.scheduling.lock import Busy, only_one

HOLD = """
import sys, time
from pathlib import Path
from pocketpipe.scheduling.lock import only_one
with only_one(Path(sys.argv[1]), "a scheduler"):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(lock: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_second_is_told_who_has_it_and_a_killed_holder_has_it_no_more(tmp_path: Path) -> None:
    lock = tmp_path / "deep" / "lock"
    process = holder(lock)
    try:
        for _ in range(2):  # asking must not wipe the holder's name
            with pytest.raises(Busy, match=rf"a scheduler is at work already \(process {process.pid}, "):
                only_one(lock, "a scheduler").__enter__()
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    with only_one(lock, "a scheduler"):
        assert lock.read_text() == f"{os.getpid()}\n"


def test_free_again_after_the_block_and_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), only_one(tmp_path / "lock", "a run"):
        raise KeyError
    with only_one(tmp_path / "lock", "a run"), pytest.raises(Busy):
        only_one(tmp_path / "lock", "a run").__enter__()
    with only_one(tmp_path / "lock", "a run"):
        pass


def test_a_child_that_is_given_the_descriptor_holds_it_too(tmp_path: Path) -> None:
    with only_one(tmp_path / "lock", "a run") as held:
        child = subprocess.Popen(["sleep", "60"], pass_fds=[held.descriptor])
        held.name_holder(child.pid)
    try:
        with pytest.raises(Busy, match=str(child.pid)):
            only_one(tmp_path / "lock", "a run").__enter__()
    finally:
        child.kill()
        child.wait()
    with only_one(tmp_path / "lock", "a run"):
        pass


def test_lock_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot open the lock file"):
        only_one(tmp_path / "file" / "lock", "a run").__enter__()


def test_a_full_disk_takes_the_name_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with only_one(tmp_path / "lock", "a run"), pytest.raises(Busy, match=r"a run is at work already \(process unknown"):
        only_one(tmp_path / "lock", "a run").__enter__()
