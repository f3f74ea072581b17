"""A run as it lies in a real store: nesting, figures, failure, trials, description."""

import time
from pathlib import Path

import mlflow
import pytest

from pocketpipe.cost import Cost
from pocketpipe.evaluation import Subject
from pocketpipe.record import StageRecord
from pocketpipe.search.trial import Trial
from pocketpipe.tracking.gates import Promotion
from pocketpipe.tracking.runs import RunTracker
from pocketpipe.tracking.store import Store

PARAMETERS = {"task": {"name": "digits", "options": {}}, "network": {"name": "resnet8"}, "targets": ["x86_64"]}
DATA = StageRecord(
    stage="data",
    metrics={"train_examples": 1078, "test_examples": 360},
    facts={"train_digest": "a1" * 32, "test_digest": "b2" * 32, "classes": 10},
    data="train, 1,078 digits; test, 360 digits",
)


@pytest.fixture
def tracker(store: Store) -> RunTracker:
    tracker = RunTracker(store)
    tracker.start("compress", PARAMETERS, {"recipe": "base"})
    return tracker


def children(store: Store, run_id: str) -> dict[str, mlflow.entities.Run]:
    found = store.client.search_runs([store.experiment_id], f"tags.\"mlflow.parentRunId\" = '{run_id}'")
    return {run.info.run_name: run for run in found}


def files(store: Store, run_id: str, path: str | None = None) -> set[str]:
    return {entry.path for entry in store.client.list_artifacts(run_id, path)}


def rows(note: str) -> list[list[str]]:
    """The cells of the tables in a description."""
    lines = [line.removeprefix("| ").removesuffix(" |") for line in note.splitlines() if line.startswith("| ")]
    return [[cell.removesuffix("&emsp;") for cell in line.split(" | ")] for line in lines]


def trial(index: int, tuned: float | None = None) -> Trial:
    cost = Cost(macs=400, parameters=40, file_bytes=200)
    return Trial(
        index=index,
        origin="tuner",
        plan_json='[{"kind": "channels"}]\n',
        cost=cost,
        speedup=2.5,
        compression=2.0,
        score=0.8,
        tuned_score=tuned,
        seconds=1.5,
    )


def test_a_run_says_what_it_is_and_what_was_asked(store: Store, tracker: RunTracker):
    run_id = tracker.run_id
    tracker.end(tags={"note": "by hand"})
    run = store.client.get_run(run_id)
    assert run.info.run_name == "digits resnet8"
    assert run.data.tags["mlflow.source.name"] == "compress"
    assert run.info.status == "FINISHED"
    assert run.data.params == {
        "task.name": "digits",
        "task.options": "{}",
        "network.name": "resnet8",
        "targets": '["x86_64"]',
    }
    assert run.data.tags["pipeline"] == "compress"
    assert run.data.tags["recipe"] == "base"
    assert run.data.tags["note"] == "by hand"
    assert len(run.data.tags["mlflow.source.git.commit"]) == 40


def test_stages_are_children_with_figures_curves_facts_and_a_duration_of_their_own(store: Store, tracker: RunTracker):
    tracker.start_stage("teacher")
    record = StageRecord(
        stage="teacher",
        metrics={"val_accuracy": 0.98, "seconds (total)": 3.0},
        curves={"loss": (2.0, 1.0, 0.5)},
        facts={"start": "random weights", "epochs": 3},
        warnings=("val looks memorized", "second"),
        data="val, 360 digits, seed 0",
    )
    tracker.log_record(record)
    time.sleep(0.05)
    tracker.start_stage("profile")
    tracker.end()
    stages = children(store, tracker_run(store))
    assert set(stages) == {"teacher", "profile"}
    teacher = stages["teacher"]
    assert teacher.data.metrics == {"val_accuracy": 0.98, "seconds _total_": 3.0, "loss": 0.5}
    history = store.client.get_metric_history(teacher.info.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(1, 2.0), (2, 1.0), (3, 0.5)]
    assert teacher.data.tags["data"] == "val, 360 digits, seed 0"
    assert teacher.data.tags["epochs"] == "3"
    assert teacher.data.tags["warnings"] == "val looks memorized\nsecond"
    assert "warnings.txt" in files(store, teacher.info.run_id)
    assert teacher.info.end_time - teacher.info.start_time >= 50
    assert teacher.info.end_time <= stages["profile"].info.end_time


def tracker_run(store: Store) -> str:
    return store.client.search_runs([store.experiment_id], "tags.pipeline = 'compress'")[0].info.run_id


def test_a_figure_with_the_name_of_a_curve_is_shown_as_the_final_one(store: Store, tracker: RunTracker):
    run_id = tracker.start_stage("search")
    tracker.log_record(StageRecord(stage="search", metrics={"score": 0.7}, curves={"score": (0.5, 0.9, 0.6)}))
    assert store.client.get_run(run_id).data.metrics == {"score": 0.7}


def test_a_failing_stage_fails_the_run_with_the_error(store: Store, tracker: RunTracker):
    run_id = tracker.run_id
    tracker.start_stage("teacher")
    tracker.end("FAILED", error="Traceback ...\nValueError: the loss is not a number")
    run, stage = store.client.get_run(run_id), children(store, run_id)["teacher"]
    for failed in (run, stage):
        assert failed.info.status == "FAILED"
        assert failed.data.tags["error"] == "ValueError: the loss is not a number"
        assert "error.txt" in files(store, failed.info.run_id)
    assert "**Failed in stage teacher** ValueError: the loss is not a number" in run.data.tags["mlflow.note.content"]


def test_an_interrupted_run_does_not_look_finished(store: Store, tracker: RunTracker):
    run_id = tracker.run_id
    tracker.start_stage("teacher")
    tracker.end("KILLED")
    assert store.client.get_run(run_id).info.status == "KILLED"
    assert children(store, run_id)["teacher"].info.status == "FAILED"


def test_a_skipped_stage_tells_its_figures_again_and_who_made_them(store: Store, tracker: RunTracker):
    run_id = tracker.run_id
    tracker.skipped_stage("teacher", StageRecord(stage="teacher", metrics={"val_accuracy": 0.98}), "0123abc")
    tracker.end()
    skipped = children(store, run_id)["teacher (skipped)"]
    assert skipped.data.metrics == {"val_accuracy": 0.98}
    assert skipped.data.tags["skipped"] == "true"
    assert skipped.data.tags["made_by_run"] == "0123abc"
    assert "0123abc" in store.client.get_run(run_id).data.tags["mlflow.note.content"]


def test_forty_trials_are_children_of_the_search_and_cost_little(store: Store, tracker: RunTracker):
    stage = tracker.start_stage("search")
    started = time.process_time()
    tracker.log_trials([trial(index) for index in range(39)], "val, 360 digits")
    tracker.log_trials([trial(index, tuned=0.9) for index in range(40)], "val, 360 digits")  # those before are known
    assert time.process_time() - started < 3  # measured alone: 0.7 s of wall time
    runs = children(store, stage)
    assert len(runs) == 40
    last = runs["trial 39 (tuner)"]
    assert last.data.metrics["tuned_score"] == 0.9
    assert last.data.tags["data"] == "val, 360 digits"
    assert last.data.tags["plan"] == '[{"kind": "channels"}]\n'
    assert last.info.end_time - last.info.start_time == 1500
    assert last.info.status == "FINISHED"


def test_files_go_to_the_open_stage_and_between_stages_to_the_run(store: Store, tracker: RunTracker, tmp_path: Path):
    (tmp_path / "delivery").mkdir()
    (tmp_path / "delivery" / "model.so").write_bytes(b"\x7fELF")
    (tmp_path / "report.html").write_text("<html>")
    stage = tracker.start_stage("compile")
    tracker.log_artifacts(tmp_path / "delivery")
    tracker.log_artifacts(tmp_path / "delivery", "named")
    tracker.end_stage()
    tracker.log_artifacts(tmp_path / "report.html")
    assert files(store, stage) == {"delivery", "named"}
    assert files(store, stage, "named") == {"named/model.so"}
    assert files(store, tracker.run_id) == {"report.html"}


def test_data_appears_as_datasets_by_digest(store: Store, tracker: RunTracker):
    run_id = tracker.run_id
    stage = tracker.start_stage("data")
    tracker.log_record(DATA)
    tracker.skipped_stage("data", DATA)  # the same data once more is no second entry
    for logged in (run_id, stage):
        inputs = store.client.get_run(logged).inputs.dataset_inputs
        assert {(i.dataset.name, i.dataset.digest) for i in inputs} == {("train", "a1" * 18), ("test", "b2" * 18)}
        assert len(inputs) == 2


def test_the_description_answers_a_new_users_questions(store: Store, tracker: RunTracker, evaluation, verdict):
    run_id = tracker.run_id
    tracker.start_stage("data")
    tracker.log_record(DATA)
    arm = Subject(name="aarch64", file="aarch64/model.so", not_measured="no QEMU")
    verdicts = (verdict("speedup", "passed"), verdict("latency", "not measured", "no QEMU | apt install it"))
    tracker.end(evaluation=evaluation(verdicts=verdicts, subjects=(*evaluation().subjects, arm)))
    run = store.client.get_run(run_id)
    note = run.data.tags["mlflow.note.content"]
    assert run.info.run_name == "kept: digits resnet8"
    assert run.data.tags["budget_kept"] == "true"
    assert run.data.metrics["speedup"] == 2.5
    assert run.data.metrics["onnx_accuracy"] == run.data.metrics["delivered_accuracy"] == 0.75
    assert run.data.metrics["onnx_examples"] == 4
    assert "aarch64_examples" not in run.data.metrics, "it was not measured"
    assert ["speedup", ">= 2.00x MACs", "2.50x", "student.onnx", "**passed**"] in rows(note)
    assert "no QEMU \\| apt install it" in note  # a table's cell stays whole
    assert ["MACs of one example", "1 k", "400", "2.50x"] in rows(note)
    assert "train, 1,078 digits; test, 360 digits" in note
    assert ["test", "360", f"`{'b2' * 6}`"] in rows(note)
    assert "- aarch64: no QEMU" in note
    assert "git commit" in note


def test_a_run_that_missed_its_budget_says_so_in_the_list_and_names_what_would_do(
    store: Store, tracker: RunTracker, evaluation, verdict
):
    run_id = tracker.run_id
    missed = evaluation(verdicts=(verdict("speedup", "failed", "too slow"),), nearest_plan="trial 3: 2.10x fewer MACs")
    tracker.end(evaluation=missed)
    run = store.client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "missed: digits resnet8"
    assert run.data.tags["budget_kept"] == "false"
    assert "**failed**: too slow" in run.data.tags["mlflow.note.content"]
    assert "**Nearest plan that passes** trial 3: 2.10x fewer MACs" in run.data.tags["mlflow.note.content"]


@pytest.mark.parametrize(("promoted", "name"), [(True, "kept: digits resnet8"), (False, "refused: digits resnet8")])
def test_a_newcomer_that_was_refused_says_so_in_the_list_with_the_reasons_on_its_page(
    store: Store, tracker: RunTracker, evaluation, promoted: bool, name: str
):
    run_id = tracker.run_id
    promotion = Promotion(name="digits-resnet8", version="2", promoted=promoted, reasons=("it was weighed",))
    tracker.end(evaluation=evaluation(), promotion=promotion)
    run = store.client.get_run(run_id)
    assert run.info.run_name == name
    assert run.data.tags["promotion"] == str(promotion)
    assert "- it was weighed" in run.data.tags["mlflow.note.content"]


def test_parameters_facts_and_curves_beyond_mlflows_limits_are_cut_and_batched(store: Store):
    tracker = RunTracker(store)
    tracker.start("compress", {"long": "x" * 10_000, "many": {str(n): n for n in range(250)}})
    run_id = tracker.start_stage("search")
    facts = {f"fact {n}": "y" * (9_000 if n == 0 else 1) for n in range(150)}
    tracker.log_record(StageRecord(stage="search", curves={"loss": tuple(float(n) for n in range(2500))}, facts=facts))
    parameters = store.client.get_run(tracker.run_id).data.params
    assert len(parameters) == 251
    assert parameters["long"].endswith("... (10000 characters)")
    stage = store.client.get_run(run_id)
    assert stage.data.tags["fact 0"].endswith("... (9000 characters)")
    assert stage.data.metrics["loss"] == 2499.0
    assert len(store.client.get_metric_history(run_id, "loss")) == 2500


def test_no_run_is_ever_active_and_a_second_run_in_the_process_is_its_own(store: Store, tracker: RunTracker):
    first = tracker.run_id
    tracker.start_stage("teacher")
    assert mlflow.active_run() is None
    tracker.end()
    tracker.end()  # twice does nothing
    assert tracker.start("compress", PARAMETERS) != first
    tracker.end()


def test_a_record_outside_a_stage_is_a_mistake_of_the_caller(tracker: RunTracker):
    with pytest.raises(RuntimeError, match="no stage is open"):
        tracker.log_record(DATA)
