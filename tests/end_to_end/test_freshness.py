"""What is fresh is not made again, what is not is: budget A, then B, then A; one parameter; one stage."""

import json
import shutil
from pathlib import Path

import pytest

from end_to_end.conftest import House, digests, kill_when, with_tables

ALL = [
    "data", "teacher", "profile", "sparsify", "search", "finetune",
    "export", "compile", "evaluate", "report", "promote",
]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> House:
    """A house in which the quick recipe ran once, in an output folder that was not there."""
    house = House(tmp_path_factory.mktemp("fresh") / "output")
    run = house.run()
    assert run.code == 0, run.out
    assert run.stages() == ALL
    return house


def test_the_same_again_makes_nothing(made: House) -> None:
    again = made.run()
    assert again.code == 0, again.out
    assert again.stages() == []
    assert "Budget kept" in again.out, "the verdicts are shown all the same"
    assert made.latest("deliveries").name in again.out, "those of this run, whatever `latest` points at"


def test_a_finetuning_parameter_rebuilds_what_follows_and_a_kill_there_changes_nothing(
    made: House, tmp_path: Path, empty_database: Path
) -> None:
    """To the byte. Kills in other stages: `test_interruptions`."""
    house = House(with_tables(tmp_path / "output", empty_database))
    shutil.copytree(
        made.output,
        house.output,
        symlinks=True,
        dirs_exist_ok=True,
        ignore=shutil.ignore_patterns("mlflow*", "workspaces"),
    )
    longer = "finetune.learning_rate=0.03,finetune.epochs=12"
    rest = ALL[ALL.index("finetune") :]
    uninterrupted = House(made.output, cold=True).run("compress", longer)
    assert uninterrupted.stages() == rest, uninterrupted.out

    made_before = set(house.output.glob("finetune/*/*"))
    kill_when(house, longer, lambda: _finetuning(house.output / "workspaces"))
    assert set(house.output.glob("finetune/*/*")) == made_before

    again = house.run("compress", longer)
    assert again.code == 0, again.out
    assert again.stages() == rest
    assert digests(house) == digests(made)


def _finetuning(work: Path) -> bool:
    """The first epochs are checkpointed."""
    curves = work.glob("finetune/*/curves.json")
    return any(len(json.loads(file.read_text()).get("train_loss", [])) >= 2 for file in curves)


@pytest.mark.slow
def test_budget_a_then_b_then_a(made: House) -> None:
    made.run()  # `latest` points at budget A, whatever ran before
    before = digests(made)
    other = made.run("compress", "budget.speedup=2.0")
    assert other.code == 0, other.out
    assert not {"data", "teacher"} & set(other.stages())
    assert digests(made) != before
    back = made.run()
    assert back.stages() == []
    assert digests(made) == before, "`latest` points at what belongs to budget A again"


@pytest.mark.slow  # by default: tests/tracking/test_registry.py
def test_what_another_registry_knows_is_registered_here(made: House, tmp_path: Path) -> None:
    elsewhere = House(made.output, made.environment | {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'other.db'}"})
    run = elsewhere.run()
    assert run.code == 0, run.out
    assert run.stages() == ["promote"]
    assert "version 1 is the champion" in elsewhere.pocketpipe("champion").out
    assert elsewhere.run().stages() == []


def test_one_stage_alone_finds_its_inputs(made: House) -> None:
    fresh = made.run("compress", "", "--namespaces", "export")
    assert fresh.code == 0, fresh.out
    assert fresh.stages() == []
    forced = made.run("compress", "", "--namespaces", "export", "--all-outputs")
    assert forced.stages() == ["export"], forced.out


@pytest.mark.slow  # by default: tests/test_hooks.py
def test_a_delivery_that_is_made_again_is_judged_again(made: House, tmp_path: Path, empty_database: Path) -> None:
    made.run()  # `latest` points at the quick recipe, whatever ran before
    house = House(with_tables(tmp_path / "output", empty_database))
    shutil.copytree(
        made.output, house.output, symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns("mlflow*")
    )
    shutil.rmtree(house.latest("deliveries"))
    assert house.run("compress", "", "--namespaces", "compile").stages() == ["compile"]
    again = house.run()
    assert again.stages() == ["evaluate", "report", "promote"], again.out
    assert house.run().stages() == []


@pytest.mark.slow
def test_from_nodes(made: House) -> None:
    run = made.run("compress", "", "--from-nodes", "evaluate.evaluate", "--all-outputs")
    assert run.stages() == ["evaluate", "report", "promote"], run.out


def test_a_stage_without_its_inputs_says_which_stage_to_run(house: House) -> None:
    run = house.run("export")
    assert run.code == 2
    assert "Traceback" not in run.out
    assert "run the stage that makes it first" in run.out.splitlines()[-1]
    assert not list(Path(house.output).glob("export/*/*/*.onnx"))
