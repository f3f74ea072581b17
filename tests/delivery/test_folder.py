"""A folder that appears whole or not at all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pocketpipe.delivery.folder import appearing_whole


def test_folder_is_not_there_before_it_is_whole(tmp_path: Path) -> None:
    with appearing_whole(tmp_path / "a" / "out") as partial:
        (partial / "file").write_text("new")
        assert not (tmp_path / "a" / "out").exists()
    assert (tmp_path / "a" / "out" / "file").read_text() == "new"
    assert os.listdir(tmp_path / "a") == ["out"]


def test_error_leaves_what_was_there(tmp_path: Path) -> None:
    with appearing_whole(tmp_path / "out") as partial:
        (partial / "file").write_text("old")

    def fail_halfway() -> None:
        with appearing_whole(tmp_path / "out") as partial:
            (partial / "file").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_halfway()
    assert (tmp_path / "out" / "file").read_text() == "old"
    assert os.listdir(tmp_path) == ["out"]


def test_left_overs_of_the_dead_are_removed_and_the_living_left_alone(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    alive = tmp_path / f".out.{os.getppid()}.partial"
    for folder in (tmp_path / f".out.{dead.pid}.partial", alive):
        folder.mkdir()
    with appearing_whole(tmp_path / "out"):
        pass
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [alive.name, "out"]
