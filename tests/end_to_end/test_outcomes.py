"""How runs end: budget missed, weights given, a stage that fails, two processes; and what MLflow says of it."""

import json
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from end_to_end.conftest import House
from own import keywords
from pocketpipe.targets.base import TARGETS
from pocketpipe.tracking.store import open_store

EASY = "task.name=own.tasks:build,network.name=own.networks:build,targets=[x86_64],budget.speedup=2.0"
"""A task that is learned in seconds."""


def runs(house: House) -> list[Any]:
    """MLflow's runs in this house, oldest first."""
    store = open_store(f"sqlite:///{house.output / 'mlflow.db'}", house.output / "mlflow-artifacts", "pocketpipe")
    return list(reversed(store.client.search_runs([store.experiment_id])))


def test_own_task_network_and_step_go_through_the_chain_and_a_missed_budget_keeps_their_files(house: House) -> None:
    """Through all doors at once; MLflow, report and the second run say what was missed."""
    own = f"{EASY},task.options.count=240,network.options.width=12,methods=[own.steps:Evenly],budget.compression=1.5"
    missed = house.run("compress", f"{own},budget.minimum_metric=1.0")
    assert missed.code == 1, missed.out
    assert missed.stages()[-1] == "promote"
    assert "no plan that was tried" in missed.out
    assert (house.latest("report") / "report.html").is_file()
    assert (house.latest("deliveries") / "content" / "x86_64" / "model.so").is_file()
    (top,) = [run for run in runs(house) if "mlflow.parentRunId" not in run.data.tags]
    assert top.data.tags["budget_kept"] == "false"
    assert "challenger" in top.data.tags["promotion"]
    trials = [run for run in runs(house) if "plan" in run.data.tags and "origin" in run.data.params]
    (scored_on,) = {run.data.tags["data"] for run in trials}
    assert scored_on.startswith("val")
    assert not list((house.output / "workspaces" / "promote").glob("*/package")), "the registry has its own"
    again = house.run("compress", f"{own},budget.minimum_metric=1.0")
    assert again.code == 1, "the verdict is the same when nothing is made again"
    assert again.stages() == []

    plan = json.loads((house.latest("plan") / "plan.json").read_text())
    assert [step["kind"] for step in plan] == ["own.steps:Evenly"]
    network = json.loads((house.latest("student") / "network" / "network.json").read_text())
    assert network["reference"] == "own.networks:build"
    assert network["options"] == {"width": 12}
    metadata = json.loads((house.latest("deliveries") / "content" / "x86_64" / "metadata.json").read_text())
    assert metadata["task"] == "own.tasks:build"
    assert metadata["labels"] == ["bar", "cross", "square"]


def test_the_default_delivers_the_same_integers_to_every_target(house: House) -> None:
    run = house.run_default(
        "search.trials=1,search.controls=0,search.finalists=1,search.ladder=[],finetune.epochs=2,"
        "evaluate.emulated_examples=100"
    )
    assert run.code == 0, run.out
    evaluation = json.loads((house.latest("evaluation") / "value.json").read_text())
    assert evaluation["student_cost"]["file_bytes"] * 8 <= evaluation["teacher_cost"]["file_bytes"]
    subjects = {subject["name"]: subject for subject in evaluation["subjects"]}
    examples = {"x86_64": 359, "aarch64": 100 if TARGETS.resolve("aarch64").emulated else 359, "fpga": 359}
    measured = {name: subjects[name] for name in examples if subjects[name]["not_measured"] is None}
    assert {"x86_64", "fpga"} <= measured.keys(), "aarch64 needs QEMU"
    for name, subject in measured.items():
        assert (subject["compared"], subject["differing"]) == (examples[name], 0), name
    assert subjects["x86_64"]["metric"] == subjects["fpga"]["metric"]
    assert {verdict["status"] for verdict in evaluation["verdicts"] if verdict["file"] == "x86_64/model.so"} == {
        "passed"
    }
    assert sum(evaluation["scores"]) / 359 == subjects["x86_64"]["metric"]


@pytest.mark.slow
def test_given_weights_skip_the_training_and_are_checked(house: House) -> None:
    trained = house.run("teacher", f"{EASY},teacher.epochs=8")
    assert trained.code != 0, "the splits are not made yet"
    assert house.run("data", EASY).code == 0
    assert house.run("teacher", f"{EASY},teacher.epochs=8").code == 0
    weights = house.latest("teacher") / "network" / "weights.safetensors"

    given = house.run("compress", f"{EASY},network.weights={weights},task.holdout=test_half", "--namespaces", "data")
    assert given.code == 0, given.out
    teacher = house.run(
        "compress", f"{EASY},network.weights={weights},task.holdout=test_half", "--namespaces", "teacher"
    )

    assert teacher.code == 0, teacher.out
    assert "training skipped, weights given" in teacher.out
    record = json.loads((house.latest("teacher_record") / "value.json").read_text())
    assert {"train_accuracy", "val_accuracy", "holdout_accuracy"} <= set(record["metrics"])
    assert (house.latest("teacher") / "network" / "weights.safetensors").read_bytes() == weights.read_bytes()


def test_a_failing_stage_is_failed_in_mlflow_with_its_error(house: House, tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for index in range(9):
            noise = np.random.default_rng(index).integers(0, 255, (8, 8, 3), np.uint8)
            Image.fromarray(noise).save(tmp_path / "photos" / label / f"{index}.png")
    (tmp_path / "photos" / "dog" / "7.png").write_bytes(b"not an image")
    house.environment["POCKETPIPE_DATA"] = str(tmp_path)
    failed = house.run("compress", "task.name=image_folder,task.options.path=photos,network.name=lenet")
    assert failed.code == 2, failed.out
    assert "Traceback" not in failed.out
    assert {run.data.tags.get("stage", "the run"): run.info.status for run in runs(house)} == {
        "the run": "FAILED",
        "data": "FAILED",
    }
    assert all("7.png" in run.data.tags["error"] for run in runs(house))


INTERRUPTIBLE = (
    "import runpy, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); sys.argv[0] = 'kedro'; "
    "runpy.run_module('kedro', run_name='__main__', alter_sys=True)"
)
"""Kedro, whatever the test's own process does on Ctrl-C."""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_is_not_left_running_in_mlflow(house: House, number: signal.Signals) -> None:
    process = house.start_run(
        "compress", f"{EASY},teacher.epochs=300", "--namespaces", "data,teacher", program=("-c", INTERRUPTIBLE)
    )
    deadline = time.monotonic() + 120
    while not list(house.output.glob("workspaces/teacher/*/curves.json")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 128 + number
    statuses = {run.data.tags.get("stage", "the run"): run.info.status for run in runs(house)}
    assert statuses == {"the run": "KILLED", "data": "FINISHED", "teacher": "FAILED"}


@pytest.mark.slow  # by default: tests/training/test_processes.py
def test_two_processes_train_on_cpu(house: House) -> None:
    run = house.run("data", EASY)
    assert run.code == 0, run.out
    both = house.run("teacher", f"{EASY},trainer.devices=2,teacher.batch_size=64")
    assert both.code == 0, both.out
    record = json.loads((house.latest("teacher_record") / "value.json").read_text())
    assert record["facts"]["processes"] == 2
    assert len([run for run in runs(house) if run.data.tags.get("pipeline") == "teacher"]) == 1, "one run, not two"


@pytest.mark.slow
def test_a_regression_goes_through_the_chain(house: House) -> None:
    """An error that is to be small, rows of numbers, no classes; integers on two targets."""
    run = house.run_default(
        "task.name=own.regression:build,network.name=own.regression:layers,targets=- x86_64\n- fpga,budget.speedup=1.5,"
        "budget.compression=2.0,budget.accuracy_drop=1.5,budget.minimum_metric=5,finalists.distillation=null,"
        "finetune.distillation=null,search.trials=1,search.controls=0,search.finalists=1,search.ladder=[]"
    )
    assert run.code == 0, run.out
    evaluation = json.loads((house.latest("evaluation") / "value.json").read_text())
    assert evaluation["metric_name"] == "absolute_error"
    assert {verdict["status"] for verdict in evaluation["verdicts"]} == {"passed"}
    measured = {subject["name"]: subject for subject in evaluation["subjects"]}
    assert {measured[name]["differing"] for name in ("x86_64", "fpga")} == {0}
    assert measured["x86_64"]["metric"] == measured["fpga"]["metric"]


@pytest.mark.slow
def test_a_segmentation_goes_through_the_chain(house: House) -> None:
    """A decoder, masks that move with their pictures, a loss and a metric of one's own; integers down to a board."""
    run = house.run_default(
        "task.name=own.segmentation:build,network.name=own.segmentation:unet,targets=- x86_64\n- cortex_m,"
        "budget.speedup=2.0,budget.compression=4.0,budget.accuracy_drop=0.1,budget.minimum_metric=0.7,teacher.epochs=20,"
        "teacher.optimizer=adamw,teacher.learning_rate=0.01,finalists.distillation=null,finetune.distillation=null,"
        "search.trials=1,search.controls=0,search.finalists=1,search.ladder=[]"
    )
    assert run.code == 0, run.out
    evaluation = json.loads((house.latest("evaluation") / "value.json").read_text())
    measured = {subject["name"]: subject for subject in evaluation["subjects"]}
    assert measured["x86_64"]["differing"] == 0
    assert measured["cortex_m"]["not_measured"] is not None or measured["cortex_m"]["differing"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("network", ["ds_cnn", "gru"])
def test_keywords_go_onto_a_microcontroller(house: House, tmp_path: Path, network: str) -> None:
    """Float features and splits of one's own, in a file; a budget of flash and RAM alone."""
    keywords.write(tmp_path / "keywords.npz")
    house.environment["POCKETPIPE_DATA"] = str(tmp_path)
    run = house.run_default(
        f"task.name=own.keywords:build,network.name=own.keywords:{network},targets=- cortex_m,teacher.epochs=8,"
        "budget.speedup=null,budget.compression=null,budget.flash_kb.cortex_m=40,budget.ram_kb.cortex_m=12,"
        "budget.accuracy_drop=0.1,search.trials=1,search.controls=0,search.finalists=1,search.ladder=[]"
    )
    assert run.code == 0, run.out
    evaluation = json.loads((house.latest("evaluation") / "value.json").read_text())
    verdicts = {verdict["requirement"]: verdict["status"] for verdict in evaluation["verdicts"]}
    assert verdicts["flash_kb"] == verdicts["ram_kb"] == "passed"
    (found,) = [subject for subject in evaluation["subjects"] if subject["name"] == "cortex_m"]
    assert found["not_measured"] is not None or (found["differing"] == 0 and found["metric"] > 0.7)
    assert "mix the classes" not in run.out
    assert "NaN" not in run.out
