"""Several processes: the same weights as one, a rank's error, resuming, and torchrun as the launcher."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import save_file

from pocketpipe.errors import Diverged, UserError
from pocketpipe.network import StoredNetwork
from pocketpipe.task import TaskChoice
from pocketpipe.training.distilling import Distillation
from pocketpipe.training.job import TrainingJob
from pocketpipe.training.recipe import TrainerSettings
from pocketpipe.workers.__main__ import main
from pocketpipe.workers.process import WorkerError, run_worker
from training.samples import RECIPE, Interrupted, idle, plain, thin, train

TWO = TrainerSettings(devices=2, threads=2, compile="never")
RECIPE_OF_TWO = RECIPE.model_copy(update={"epochs": 2})


@pytest.fixture(autouse=True)
def _ranks_find_the_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))


def test_two_processes_give_the_weights_of_one(tmp_path: Path) -> None:
    one = train(tmp_path / "one", network=plain, recipe=RECIPE_OF_TWO)
    two = train(tmp_path / "two", network=plain, recipe=RECIPE_OF_TWO, settings=TWO)
    assert two.facts["processes"] == 2
    assert not (tmp_path / "two" / "inputs").exists()  # the copies of the data
    for name, weights in one.network.state.items():
        assert (weights - two.network.state[name]).abs().max() < 1e-5, name
    assert two.curves["train_loss"] == pytest.approx(one.curves["train_loss"], abs=1e-5)
    assert two.curves["val_accuracy"] == pytest.approx(one.curves["val_accuracy"])


@pytest.mark.slow
def test_two_processes_do_not_wait_for_gradients_that_never_come(tmp_path: Path) -> None:
    one = train(tmp_path / "one", network=idle, recipe=RECIPE_OF_TWO)
    two = train(tmp_path / "two", network=idle, recipe=RECIPE_OF_TWO, settings=TWO)
    for name, weights in one.network.state.items():
        assert (weights - two.network.state[name]).abs().max() < 1e-5, name


@pytest.mark.slow
def test_two_processes_are_taught_as_one(tmp_path: Path) -> None:
    """By two teachers, asked once a view, with a regressor beside: what is trained beside the network is shared too."""
    teacher = train(tmp_path / "teacher", network=plain, seed=8).network
    save_file(dict(train(tmp_path / "other", network=plain, seed=9).network.state), tmp_path / "other.safetensors")
    named = {"name": "training.samples:plain", "weights": str(tmp_path / "other.safetensors")}
    for name, options in (
        ("cached", {"teachers": [named], "cached_views": 1}),
        ("hints", {"features": {"kind": "hints", "points": ["0"]}}),
    ):
        distillation = Distillation.model_validate({"weight": 0.5, **options})
        recipe = RECIPE_OF_TWO.model_copy(update={"distillation": distillation})
        student = thin if name == "hints" else plain
        one = train(tmp_path / name / "one", network=student, recipe=recipe, teacher=teacher)
        two = train(tmp_path / name / "two", network=student, recipe=recipe, settings=TWO, teacher=teacher)
        for key, weights in one.network.state.items():
            assert (weights - two.network.state[key]).abs().max() < 1e-5, (name, key)


def test_a_failing_rank_fails_the_training_with_its_error(tmp_path: Path) -> None:
    fragile = TaskChoice(name="training.samples:build_fragile_task")
    with pytest.raises(UserError, match="rank 1: ArithmeticError: rank one cannot count"):
        train(tmp_path, network=plain, recipe=RECIPE_OF_TWO, settings=TWO, task=fragile)


def test_a_batch_that_cannot_be_shared(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"batch_size 31 cannot be shared evenly among 2 processes"):
        train(tmp_path, recipe=RECIPE.model_copy(update={"batch_size": 31}), settings=TWO)


@pytest.mark.slow
def test_processes_that_would_go_on_from_different_epochs_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = TaskChoice(name="training.samples:build_interrupted")
    monkeypatch.setattr(Interrupted, "calls", 0)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "rank-1", network=plain, task=task)
    splits, _ = Interrupted().load(seed=0, holdout=None)
    stored = StoredNetwork("training.samples:plain")
    TrainingJob(stored, task, Path("."), splits, RECIPE, TWO, 3, "sample").save(tmp_path / "inputs")
    (tmp_path / "rank-0").mkdir()
    with pytest.raises(WorkerError, match=r"different epochs \(0 to 1 complete\)"):
        run_worker("training.samples:train_apart", {"folder": str(tmp_path)}, tmp_path, processes=2)


def torchrun_worker(told: UserError) -> list[str]:
    """What the advice lets torchrun start: function, spec and result."""
    return shlex.split(str(told).split("-m pocketpipe.workers ")[1].split("; then")[0])


@pytest.fixture
def _one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torchrun would have it if there was but one node."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")


NODES = TrainerSettings(devices=1, nodes=2, compile="never")


@pytest.mark.usefixtures("_one_rank")
def test_a_training_that_diverged_on_other_nodes_is_told_each_time(tmp_path: Path) -> None:
    recipe = RECIPE_OF_TWO.model_copy(update={"learning_rate": 1e20})
    with pytest.raises(UserError, match="torchrun --nnodes 2") as told:
        train(tmp_path, network=plain, recipe=recipe, settings=NODES)
    assert main(*torchrun_worker(told.value)) == 1
    for _ in range(2):
        with pytest.raises(Diverged, match="rank 0: training diverged in epoch 1"):
            train(tmp_path, network=plain, recipe=recipe, settings=NODES)
    with pytest.raises(UserError, match="torchrun --nnodes 2"):
        train(tmp_path, network=plain, recipe=RECIPE_OF_TWO, settings=NODES)


@pytest.mark.usefixtures("_one_rank")
def test_another_error_on_other_nodes_is_told_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="torchrun --nnodes 2") as told:
        train(tmp_path, network=plain, settings=NODES)
    shutil.rmtree(tmp_path / "inputs")  # on no shared file system, say
    assert main(*torchrun_worker(told.value)) == 1
    with pytest.raises(UserError, match=r"rank 0: .*job.json"):
        train(tmp_path, network=plain, settings=NODES)
    with pytest.raises(UserError, match="torchrun --nnodes 2"):
        train(tmp_path, network=plain, settings=NODES)


@pytest.mark.slow
def test_several_nodes_are_started_by_torchrun(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="torchrun --nnodes 2") as told:
        train(tmp_path / "champion's nodes", network=plain, recipe=RECIPE_OF_TWO, settings=NODES)
    worker = torchrun_worker(told.value)
    launcher = shutil.which("torchrun", path=str(Path(sys.executable).parent)) or pytest.fail("no torchrun")
    common = [
        launcher,
        "--nnodes",
        "2",
        "--nproc-per-node",
        "1",
        "--master-addr",
        "127.0.0.1",
        "--master-port",
        "29617",
    ]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen([*common, "--node-rank", str(rank), "-m", "pocketpipe.workers", *worker], env=environment)
        for rank in range(2)
    ]
    assert [process.wait(120) for process in started] == [0, 0]
    many = train(tmp_path / "champion's nodes", network=plain, recipe=RECIPE_OF_TWO, settings=NODES)
    one = train(tmp_path / "one", network=plain, recipe=RECIPE_OF_TWO)
    for name, weights in one.network.state.items():
        assert (weights - many.network.state[name]).abs().max() < 1e-5, name
