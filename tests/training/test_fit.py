"""fit: same bytes after kill -9, a finished workspace, a changed job, divergence, what is left behind."""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pocketpipe.errors import Diverged, UserError
from pocketpipe.network import StoredNetwork
from pocketpipe.task import TaskChoice
from pocketpipe.training.fit import Fitted
from pocketpipe.training.inference import metric_of
from pocketpipe.training.recipe import Distillation, TrainerSettings
from training.samples import RECIPE, SETTINGS, Blobs, Interrupted, blobs, plain, train

LONG = RECIPE.model_copy(update={"epochs": 4, "ema": 0.9})

INTERRUPTED = """
import sys, time
from pathlib import Path
from training import samples

calls = 0
class Slow(samples.Blobs):
    def augment(self, inputs, generator):
        global calls
        calls += 1
        if calls == 9:  # in the middle of the second epoch of six steps
            Path(sys.argv[2]).touch()
            time.sleep(60)
        return super().augment(inputs, generator)
samples.build_task = lambda data_root: Slow()
from training.test_fit import LONG
samples.train(Path(sys.argv[1]), recipe=LONG)
"""


def test_killed_in_an_epoch_it_ends_in_the_same_bytes(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", recipe=LONG)
    reached = tmp_path / "reached"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path / "killed"), str(reached)]
    with subprocess.Popen(command, env=environment) as process:
        deadline = time.monotonic() + 60
        while not reached.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert reached.exists()
    assert torch.load(tmp_path / "killed" / "epoch.ckpt", weights_only=True)["epoch"] == 0

    resumed = train(tmp_path / "killed", recipe=LONG)

    assert resumed.network.digest() == whole.network.digest()
    weights = [(tmp_path / name / "result" / "weights.safetensors").read_bytes() for name in ("whole", "killed")]
    assert weights[0] == weights[1]
    for name in ("train_loss", "val_accuracy", "learning_rate"):
        assert resumed.curves[name] == whole.curves[name]


def test_a_finished_workspace_answers_at_once_and_holds_no_stray_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = train(tmp_path / "work")
    monkeypatch.setattr("pocketpipe.training.train.train", lambda *a: pytest.fail("trained again"))
    (tmp_path / "work" / "epoch.ckpt").write_bytes(b"of a process that was killed when all but this was done")
    assert train(tmp_path / "work").network.digest() == first.network.digest()
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    expected = {"job.sha256", "curves.json", "facts.json", "result/network.json", "result/weights.safetensors"}
    assert files == {f"work/{name}" for name in expected}


def test_curves_have_an_entry_for_each_epoch_and_val_is_measured_on_the_result(whole: Fitted) -> None:
    assert set(whole.curves) == {"train_loss", "val_accuracy", "learning_rate", "seconds"}
    assert all(len(curve) == RECIPE.epochs for curve in whole.curves.values())
    task = Blobs()
    measured = metric_of(whole.network.build(task), task, blobs("val", 80, 1))
    assert whole.curves["val_accuracy"][-1] == measured > 0.9


def test_another_seed_or_recipe_is_another_training(tmp_path: Path) -> None:
    first = train(tmp_path)
    second = train(tmp_path, seed=4)
    third = train(tmp_path, recipe=LONG)
    assert len({fitted.network.digest() for fitted in (first, second, third)}) == 3


def test_the_callers_generator_does_not_matter_and_is_left_alone(tmp_path: Path, whole: Fitted) -> None:
    torch.manual_seed(1)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    assert train(tmp_path).network.digest() == whole.network.digest(), "which began in another state"
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_a_broken_checkpoint_is_left_out(
    tmp_path: Path, whole: Fitted, whole_workspace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "job.sha256").write_text((whole_workspace / "job.sha256").read_text())
    (tmp_path / "epoch.ckpt").write_bytes(b"half a check")
    assert train(tmp_path).network.digest() == whole.network.digest()
    assert "starting anew" in caplog.text


def test_divergence_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"diverged in epoch \d.*lower learning_rate \(1e\+20\)"):
        train(tmp_path, recipe=RECIPE.model_copy(update={"learning_rate": 1e20}))


def test_divergence_is_noticed_within_a_long_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    loss = Blobs.loss

    def counted(self: Blobs, *arguments: torch.Tensor, **keywords: float) -> torch.Tensor:
        steps.append(1)
        return loss(self, *arguments, **keywords)

    monkeypatch.setattr(Blobs, "loss", counted)
    with pytest.raises(Diverged, match="diverged in epoch 1: the loss is nan"):
        train(tmp_path, recipe=RECIPE.model_copy(update={"learning_rate": 1e20, "batch_size": 1}), network=plain)
    assert len(steps) == 100, "of 200"


def test_memory_that_a_gpu_lacks_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(self: Blobs, *arguments: torch.Tensor, **keywords: float) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nmore")

    monkeypatch.setattr(Blobs, "loss", too_large)
    with pytest.raises(UserError, match=r"^sample: .* 32 examples .*2.00 GiB\); lower batch_size.*accelerator: cpu$"):
        train(tmp_path)


def test_checkpoints_need_no_folder_for_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "is not there"))
    assert train(tmp_path / "work").curves["val_accuracy"][-1] > 0.9


def test_no_gpu_is_asked_by_a_training_on_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Fitted) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda *_: pytest.fail("which starts it"))
    fitted = train(tmp_path, settings=SETTINGS.model_copy(update={"accelerator": "cpu"}))
    assert fitted.network.state.keys() == whole.network.state.keys()


def _generators() -> tuple[Any, Any]:
    """States of NumPy's and of Python's own."""
    numpys: Any = np.random.get_state()
    return numpys[1].tolist(), random.getstate()


def test_other_generators_are_seeded_too_and_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = TaskChoice(name="training.samples:build_interrupted")
    np.random.seed(1), random.seed(1)
    before = _generators()
    whole = train(tmp_path / "whole", task=task)
    assert before == _generators()
    np.random.seed(2), random.seed(2)
    monkeypatch.setattr(Interrupted, "calls", 0)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "halved", task=task)
    assert (tmp_path / "halved" / "epoch.ckpt").exists()
    assert train(tmp_path / "halved", task=task).network.digest() == whole.network.digest()


def test_ctrl_c_does_not_stay_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(Interrupted, "calls", 8)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, task=TaskChoice(name="training.samples:build_interrupted"))
    assert signal.getsignal(signal.SIGINT) is before


def test_distillation_needs_a_teacher(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no teacher"):
        train(tmp_path, recipe=RECIPE.model_copy(update={"distillation": Distillation()}))


def test_a_pure_student_approaches_its_teacher(tmp_path: Path, teacher: StoredNetwork) -> None:
    before = teacher.digest()
    recipe = RECIPE.model_copy(update={"epochs": 8, "distillation": Distillation(weight=1.0, temperature=2.0)})
    student = train(tmp_path, recipe=recipe, teacher=teacher).network
    task, inputs = Blobs(), torch.from_numpy(Blobs.preprocessing(blobs("val", 80, 1).inputs))
    with torch.no_grad():
        taught, learned = (n.build(task)(inputs).softmax(1).numpy() for n in (teacher, student))
    assert np.abs(taught - learned).mean() < 0.05
    assert teacher.digest() == before


def test_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(UserError, match=r"trainer.accelerator: 'gpu'"):
        train(tmp_path, settings=TrainerSettings(accelerator="gpu"))


def test_bf16_trains_and_the_result_is_float32(tmp_path: Path, whole: Fitted) -> None:
    fitted = train(tmp_path, settings=TrainerSettings(precision="bf16", compile="never", threads=1))
    assert fitted.facts["precision"] == "bf16"
    assert fitted.network.digest() != whole.network.digest()
    assert fitted.curves["val_accuracy"][-1] > 0.9
    assert {t.dtype for t in fitted.network.state.values() if t.is_floating_point()} == {torch.float32}


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_by_a_signal_it_ends_as_any_program_does(tmp_path: Path, how: signal.Signals) -> None:
    """Lightning alone would turn Ctrl-C into an exit that no caller can tell from another, and SIGTERM into success."""
    reached = tmp_path / "reached"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path / "work"), str(reached)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not reached.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(how)
        _, errors = process.communicate()
    assert process.returncode == -how
    assert how is signal.SIGTERM or errors.rstrip().endswith("KeyboardInterrupt")


def test_another_optimizer_and_clipped_gradients(tmp_path: Path) -> None:
    adamw = RECIPE.model_copy(update={"optimizer": "adamw", "learning_rate": 0.01})
    fitted = train(tmp_path / "adamw", recipe=adamw)
    assert fitted.curves["val_accuracy"][-1] > 0.9
    half = TrainerSettings(threads=1, compile="never", precision="bf16")
    clipped = train(tmp_path / "half", recipe=RECIPE.model_copy(update={"clip_norm": 1.0}), settings=half)
    assert clipped.curves["val_accuracy"][-1] > 0.9, "Lightning clips for no fused optimizer beside bf16"
    held = train(tmp_path / "held", recipe=RECIPE.model_copy(update={"clip_norm": 1e-9, "weight_decay": 0.0}))
    still = train(tmp_path / "still", recipe=RECIPE.model_copy(update={"learning_rate": 1e-12, "weight_decay": 0.0}))
    for name, weights in still.network.state.items():
        if weights.is_floating_point():
            assert torch.allclose(weights, held.network.state[name], atol=1e-6), name
