"""kill -9 in search and compile: finished stages are not repeated, and the end is the same to the byte; runs at once.

In finetune: `test_freshness`.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from end_to_end.conftest import House, digests, kill_when
from end_to_end.test_freshness import ALL

SLOWER = "network.name=resnet8,finetune.epochs=8,search.trials=6,targets=- x86_64\n- aarch64"
"""Long enough to be killed in the middle."""


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    house = House(tmp_path_factory.mktemp("uninterrupted") / "output", cold=True)
    run = house.run("compress", SLOWER)
    assert run.code == 0, run.out
    return digests(house)


def searching(work: Path) -> bool:
    """At least two trials are on disk."""
    return any(file.read_bytes().count(b'"proposal"') >= 2 for file in work.glob("search/**/trials.jsonl"))


def compiling(work: Path) -> bool:
    """The first target is there, the second is not."""
    return any(work.glob("compile/**/deliveries/x86_64"))


@pytest.mark.slow  # by default: tests/search/test_resume.py
@pytest.mark.parametrize(("stage", "reached"), [("search", searching), ("compile", compiling)])
def test_killed_in(stage: str, reached: Callable[[Path], bool], house: House, uninterrupted: dict[str, str]) -> None:
    kill_when(house, SLOWER, lambda: reached(house.output / "workspaces"))
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
    at_once(house, "teacher.epochs=12", "--namespaces", "data,teacher")
    assert len(list(house.output.glob("teacher/teacher/*/network"))) == 2, "one, and `latest`"


def at_once(house: House, parameters: str, *arguments: str) -> None:
    """The same run in two processes, one of which waits for the other."""
    same = [house.start_run("compress", parameters, *arguments) for _ in range(2)]
    outs = [process.communicate(timeout=900)[0] for process in same]
    assert [process.returncode for process in same] == [0, 0], outs
    assert any("another run makes the same; waiting for it" in out for out in outs), outs
