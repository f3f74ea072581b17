"""kill -9 in search, finetune and compile: finished stages are not repeated, and the end is the same to the byte."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from end_to_end.conftest import House, digests
from end_to_end.test_freshness import ALL

SLOWER = "finetune.epochs=8,search.trials=6"
"""Long enough to be killed in the middle."""


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    house = House(tmp_path_factory.mktemp("uninterrupted") / "output")
    run = house.run("compress", SLOWER)
    assert run.code == 0, run.out
    return digests(house)


def searching(work: Path) -> bool:
    """At least two trials are on disk."""
    return any(file.read_bytes().count(b'"proposal"') >= 2 for file in work.glob("search/*/trials.jsonl"))


def finetuning(work: Path) -> bool:
    """The first epochs are checkpointed."""
    return any(len(json.loads(file.read_text()).get("train_loss", [])) >= 2 for file in curves(work))


def curves(work: Path) -> list[Path]:
    return list(work.glob("finetune/*/curves.json"))


def compiling(work: Path) -> bool:
    """The first target is there, the second is not."""
    return any(work.glob("compile/*/deliveries/x86_64"))


@pytest.mark.parametrize(
    ("stage", "reached"),
    [
        pytest.param("search", searching, marks=pytest.mark.slow),  # by default: tests/search/test_resume.py
        ("finetune", finetuning),
        pytest.param("compile", compiling, marks=pytest.mark.slow),
    ],
)
def test_killed_in(stage: str, reached: Callable[[Path], bool], house: House, uninterrupted: dict[str, str]) -> None:
    kill_when(house, lambda: reached(house.output / "workspaces"))
    assert stage not in {folder.name for folder in house.output.glob("*/*_record/latest")}

    again = house.run("compress", SLOWER)

    assert again.code == 0, again.out
    assert again.stages() == ALL[ALL.index(stage) :], "the interrupted stage and what follows, nothing before"
    assert digests(house) == uninterrupted


@pytest.mark.slow
def test_two_runs_at_once(house: House, uninterrupted: dict[str, str]) -> None:
    at_once(house, SLOWER)
    assert digests(house) == uninterrupted


def test_two_teachers_at_once(house: House) -> None:
    at_once(house, f"{SLOWER},teacher.epochs=12", "--namespaces", "data,teacher")
    assert len(list(house.output.glob("teacher/teacher/*/network"))) == 2, "one, and `latest`"


def at_once(house: House, parameters: str, *arguments: str) -> None:
    """The same run in two processes, one of which waits for the other."""
    same = [house.start_run("compress", parameters, *arguments) for _ in range(2)]
    outs = [process.communicate(timeout=900)[0] for process in same]
    assert [process.returncode for process in same] == [0, 0], outs
    assert any("another run makes the same; waiting for it" in out for out in outs), outs


def kill_when(house: House, reached: Callable[[], bool]) -> None:
    """Start the run, and kill -9 it and all that it started as soon as `reached` says so."""
    process = house.start_run("compress", SLOWER)
    deadline = time.monotonic() + 300
    while not reached():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "the run never came so far"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
