"""What the hooks hold for fresh: by what lies there, and by what it was made from."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Pipeline, node

from pocketpipe import hooks
from pocketpipe.datasets.fresh import JsonDataset, TextDataset
from pocketpipe.errors import UserError
from pocketpipe.hooks import RunHooks, Stage, _stage_lock
from pocketpipe.lineage.provenance import provenance_now
from pocketpipe.record import StageRecord
from pocketpipe.tracking.gates import Promotion
from reporting.sample import findings

CHAIN = Pipeline([node(lambda text: text, given, made, name=made) for given, made in ("xa", "ab", "bc")])


class House:
    """Three stages, one behind the other, and runs that make them."""

    def __init__(self, output: Path) -> None:
        self.output = output

    def catalog(self) -> DataCatalog:
        """As a new process has it."""
        datasets = {name: TextDataset(str(self.output / name), file="text") for name in "abc"}
        for dataset in datasets.values():
            dataset.fingerprint = "f"
        return DataCatalog(datasets={"x": MemoryDataset("from outside"), **datasets})

    def run(self, name: str, pipeline: Pipeline = CHAIN) -> list[str]:
        """The stages that it makes; what they hold says by whom."""
        catalog = self.catalog()
        made = [each.name for each in hooks._to_be_made(pipeline, catalog)]
        assert made == [each.name for each in pipeline.nodes if not catalog.exists(each.name)], "so Kedro decides"
        for stage in (each for each in pipeline.nodes if each.name in made):
            catalog[stage.name].provenance = provenance_now(fingerprint="f", inputs={}, run=name)
            RunHooks(catalog=catalog)._note_who_made_the_inputs(stage)
            catalog.save(stage.name, f"by {name}")
        return made


def test_what_was_made_from_a_result_that_is_made_again_is_made_again(tmp_path: Path) -> None:
    house = House(tmp_path)
    assert house.run("one") == ["a", "b", "c"]
    assert house.run("two") == []
    shutil.rmtree(tmp_path / "b")
    assert house.run("three") == ["b", "c"]
    assert [house.catalog().load(name) for name in "abc"] == ["by one", "by three", "by three"]
    assert house.run("four") == []


def test_all_outputs_asked_for_measure_again(tmp_path: Path) -> None:
    """And what is made of the figures is made of the new ones."""
    stages = [node(lambda text: text, *ends, name=ends[1], namespace=space) for ends, space in (
        (("x", "a"), None), (("a", "b"), "evaluate"), (("b", "c"), None),
    )]  # fmt: skip
    chain = Pipeline([Pipeline([each]) for each in stages])
    house = House(tmp_path)
    for name in ("one", "two"):
        catalog = house.catalog()
        made = hooks._to_be_made(chain, catalog, measured_again=name == "two")
        assert [each.outputs for each in made] == [["a"], ["b"], ["c"]][-3 if name == "one" else -2 :]
        for stage in made:
            (output,) = stage.outputs
            catalog[output].provenance = provenance_now(fingerprint="f", inputs={}, run=name)
            catalog.save(output, f"by {name}")
    assert [house.catalog().load(name) for name in "abc"] == ["by one", "by two", "by two"]


def test_outputs_of_a_stage_belong_together(tmp_path: Path) -> None:
    """A run was killed between two of them, and another one made the second."""
    pair = Pipeline([node(lambda text: (text, text), "x", ["a", "b"], name="pair")])
    house = House(tmp_path)
    for name, run in (("a", "one"), ("b", "two")):
        catalog = house.catalog()
        catalog[name].provenance = provenance_now(fingerprint="f", inputs={}, run=run)
        catalog.save(name, f"by {run}")
    assert [each.name for each in hooks._to_be_made(pair, house.catalog())] == ["pair"]


def test_also_where_a_run_of_single_stages_has_made_it_again(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.run("one")
    shutil.rmtree(tmp_path / "a")
    assert house.run("two", CHAIN.filter(node_names=["a"])) == ["a"]
    assert house.run("three", CHAIN.filter(node_names=["c"])) == [], "what it was made from is still there"
    assert house.run("four") == ["b", "c"]


def test_a_result_whose_source_was_removed_and_is_not_asked_for_stays(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.run("one")
    shutil.rmtree(tmp_path / "a")
    assert house.run("two", CHAIN.filter(node_names=["b", "c"])) == []


@pytest.fixture
def promoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataCatalog:
    """A promotion that the registry bears out."""
    monkeypatch.setenv("POCKETPIPE_OUTPUT", str(tmp_path))
    registry = SimpleNamespace(has=lambda _: True, was_rolled_back=lambda _: False)
    monkeypatch.setattr(hooks, "open_registry", lambda: registry)
    datasets = {
        "promotion": JsonDataset(str(tmp_path / "promotion"), value="pocketpipe.tracking.gates:Promotion"),
        "promote_record": JsonDataset(str(tmp_path / "promote_record"), value="pocketpipe.record:StageRecord"),
    }
    for dataset in datasets.values():
        dataset.fingerprint = "f"
    datasets["promotion"].save(Promotion(name="digits", version="1", promoted=True, reasons=("first",)))
    datasets["promote_record"].save(StageRecord(stage="promote"))
    return DataCatalog(datasets={**datasets})


def test_a_promotion_that_holds_stays(promoted: DataCatalog) -> None:
    hooks._forget_what_was_not_decided(promoted)
    assert promoted.exists("promotion")
    assert promoted.exists("promote_record")


@pytest.mark.parametrize("torn", ["promotion", "promote_record"])
@pytest.mark.parametrize("whole", [True, False])
def test_half_a_promotion_is_none(torn: str, whole: bool, promoted: DataCatalog) -> None:
    folder = promoted[torn].path
    shutil.rmtree(folder)
    if not whole:
        folder.mkdir()  # its file was deleted, and then the process
    hooks._forget_what_was_not_decided(promoted)
    assert not promoted.exists("promotion")
    assert not promoted.exists("promote_record")


def test_a_server_that_is_gone_hides_no_fault_and_keeps_no_lock(
    caplog: pytest.LogCaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a stage that failed: what it said must reach the user, and the next run must not wait for it."""
    monkeypatch.setenv("POCKETPIPE_OUTPUT", str(tmp_path))

    def gone(*_: object, **__: object) -> None:
        raise ConnectionError("the server is gone")

    tracker: Any = SimpleNamespace(end_stage=gone, end=gone)
    hooks = RunHooks(tracker=tracker, stage=Stage("teacher", 0.0, _stage_lock("teacher-1"), set()))
    hooks.on_node_error(ValueError("what happened"))
    hooks.on_pipeline_error(ValueError("what happened"))
    assert caplog.text.count("MLflow was not told how it ended: the server is gone") == 2
    assert hooks.stage is None
    _stage_lock("teacher-1").release()


def test_a_server_that_is_gone_hides_no_verdict(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object, **__: object) -> None:
        raise ConnectionError("the server is gone")

    told: dict[str, Any] = {}
    monkeypatch.setattr(hooks, "open_registry", gone)
    promotion = Promotion(name="digits", version="1", promoted=True, reasons=("first",))
    evaluation = findings().evaluation
    datasets = {"evaluation": MemoryDataset(evaluation), "promotion": MemoryDataset(promotion)}
    pipeline = Pipeline([node(lambda _: (), "x", ["evaluation", "promotion"], name="all")])
    tracker: Any = SimpleNamespace(end=lambda **given: told.update(given))
    RunHooks(tracker=tracker).after_pipeline_run(pipeline, DataCatalog(datasets={**datasets}))
    assert told == {"evaluation": evaluation, "promotion": promotion}, "as far as is known"
    assert "the server is gone" in caplog.text
    assert "accuracy_drop" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "workspaces").write_text("a file where a folder should be")
    monkeypatch.setenv("POCKETPIPE_OUTPUT", str(tmp_path))
    with pytest.raises(UserError, match=r"output folder .*: cannot be written"):
        _stage_lock("teacher-1")
