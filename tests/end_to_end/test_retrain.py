"""Retraining: a champion is made, kept when nothing changed, replaced by better, defended against worse."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from end_to_end.conftest import House, Running
from own.tasks import SHAPES, Shapes

OWN = (
    "task.name=own.tasks:from_folder,network.name=own.networks:build,targets=[x86_64],budget.speedup=2.0,"
    "budget.compression=1.5,promote.margin=0.05,teacher.epochs=8,finetune.epochs=8,search.trials=2"
)
MODEL = "own.tasks.from_folder-own.networks.build"


@pytest.fixture
def house(tmp_path: Path) -> House:
    """A house whose data lies in a folder that tests write to."""
    data = tmp_path / "data"
    data.mkdir()
    write(data, count=400)
    return House(tmp_path / "output", {"POCKETPIPE_DATA": str(data)})


def write(data: Path, *, count: int, shuffled: bool = False, classes: tuple[str, ...] | None = None) -> None:
    """New shapes in the data folder; shuffled: with labels that mean nothing."""
    examples, _ = Shapes(count).read()
    targets = np.random.default_rng(0).permutation(examples.targets) if shuffled else examples.targets
    labels = SHAPES if classes is None else classes
    kept = targets < len(labels)
    np.savez(data / "shapes.npz", inputs=examples.inputs[kept], targets=targets[kept], labels=np.array(labels))


def test_a_champion_from_first_to_last(house: House) -> None:
    data = Path(house.environment["POCKETPIPE_DATA"])
    first = house.run("compress", OWN)
    assert first.code == 0, first.out
    assert "version 1 is the champion" in house.pocketpipe("champion").out

    unchanged = house.run("retrain", OWN)
    assert unchanged.code == 0, unchanged.out
    assert unchanged.stages() == []
    assert "nothing changed since champion version 1" in unchanged.out

    write(data, count=520)
    killed = house.start_run("retrain", OWN)
    wait_for(house, "teacher", killed)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    better = house.run("retrain", OWN)
    assert better.code == 0, better.out
    assert "data" not in better.stages(), "the retraining that was killed goes on"
    assert "the champion's, kept" in (house.latest("search_record") / "value.json").read_text()
    assert "version 2 is the champion" in house.pocketpipe("champion", MODEL).out

    write(data, count=520, shuffled=True)
    worse = house.run("retrain", OWN)
    assert "challenger, not champion" in worse.out, worse.out
    shown = house.pocketpipe("champion", MODEL).out
    assert "version 2 is the champion" in shown
    promotion = (house.latest("promotion") / "value.json").read_text()
    assert "as with broken data" in promotion

    assert "version 1 is the champion again" in house.pocketpipe("rollback", MODEL).out

    write(data, count=520)
    again = house.run("retrain", OWN)
    assert again.stages() == ["promote"], "what it decided once does not hold any more"
    assert "were rolled back" in again.out
    assert "version 1 is the champion" in house.pocketpipe("champion", MODEL).out


@pytest.mark.slow
def test_new_classes_start_anew(house: House) -> None:
    data = Path(house.environment["POCKETPIPE_DATA"])
    write(data, count=400, classes=SHAPES[:2])
    assert house.run("compress", OWN).code == 0
    write(data, count=400)
    grown = house.run("retrain", OWN)
    assert grown.code == 0, grown.out
    assert "answers with bar, cross, the data has bar, cross, square" in grown.out
    assert "version 2 is the champion" in house.pocketpipe("champion", MODEL).out


def wait_for(house: House, stage: str, process: Running) -> None:
    """Until `stage` has its workspace for this run: everything before it is made."""
    before = set(house.output.glob(f"workspaces/{stage}/*"))
    deadline = time.monotonic() + 300
    while set(house.output.glob(f"workspaces/{stage}/*")) == before:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "the run never came so far"
        time.sleep(0.02)
