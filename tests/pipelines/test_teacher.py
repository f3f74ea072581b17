"""The teacher stage: where its training starts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pocketpipe.network import NetworkChoice, StoredNetwork
from pocketpipe.pipelines.teacher.nodes import _hardly_better_than_guessing, make_teacher
from pocketpipe.record import StageRecord
from pocketpipe.training.recipe import TeacherRecipe
from training.samples import RECIPE, SETTINGS, TASK, Blobs, blobs, normalized

GENTLE = TeacherRecipe(**{**RECIPE.model_dump(), "epochs": 1, "learning_rate": 1e-6, "warmup_epochs": 0})
"""Too gentle to leave where it starts."""


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(7)
    save_file(normalized((1, 6, 6), 4).state_dict(), tmp_path / "given.safetensors")
    return tmp_path / "given.safetensors"


def made(weights: Path | None, recipe: TeacherRecipe, workspace: Path) -> tuple[StoredNetwork, StageRecord]:
    splits, _ = Blobs().load(seed=0, holdout=None)
    choice = NetworkChoice(name="training.samples:normalized", weights=weights)
    return make_teacher(TASK, choice, recipe, SETTINGS, 3, splits, Path("."), Path("."), workspace)


def test_given_weights_are_the_teacher_or_where_its_training_starts(weights: Path, tmp_path: Path) -> None:
    final, record = made(weights, GENTLE, tmp_path / "final")
    assert record.facts["start"] == "given weights given.safetensors; training skipped"

    further = GENTLE.model_copy(update={"given_weights": "start"})
    trained, record = made(weights, further, tmp_path / "start")
    assert record.facts["start"] == "given weights given.safetensors"
    assert len(record.curves["train_loss"]) == 1
    assert "val_looks_memorized" in record.facts
    anew, record = made(None, further, tmp_path / "anew")
    assert record.facts["start"] == "random weights"

    def moved(network: StoredNetwork) -> float:
        return float((network.state["0.weight"] - final.state["0.weight"]).abs().max())

    assert 0 < moved(trained) < 1e-4 < moved(anew)


def test_a_retraining_with_given_weights_says_that_it_trains_the_student_alone(weights: Path, tmp_path: Path) -> None:
    splits, _ = Blobs().load(seed=0, holdout=None)
    choice = NetworkChoice(name="training.samples:normalized", weights=weights)
    champion: Any = SimpleNamespace()
    _, record = make_teacher(
        TASK, choice, GENTLE, SETTINGS, 3, splits, Path("."), Path("."), tmp_path / "final", champion
    )  # fmt: skip
    assert "the champion's teacher is trained on" in record.warnings[0]


def test_weights_that_know_hardly_more_than_the_most_frequent_class_are_told(weights: Path, tmp_path: Path) -> None:
    """Labels in another order, say: the budget's terms are relative to them."""
    _, record = made(weights, GENTLE, tmp_path / "random")
    (warning,) = [line for line in record.warnings if "hardly more than the most frequent class" in line]
    assert "(0.2500)" in warning
    trained, _ = made(None, TeacherRecipe(**RECIPE.model_dump()), tmp_path / "trained")
    save_file(dict(trained.state), tmp_path / "good.safetensors")
    _, record = made(tmp_path / "good.safetensors", GENTLE, tmp_path / "good")
    assert not [line for line in record.warnings if "hardly" in line]


@pytest.mark.parametrize("of_no_class", [-1, 255])
def test_class_numbers_outside_the_labels_are_not_guessed(of_no_class: int, weights: Path) -> None:
    split = blobs("val", 80, 1)
    split.targets[:60] = of_no_class
    (warning,) = _hardly_better_than_guessing(0.01, split, Blobs(), "it has", "why?")
    assert "(0.0625)" in warning, "5 of 80 are of the most frequent class"
    split.targets[:] = of_no_class
    assert not _hardly_better_than_guessing(0.01, split, Blobs(), "it has", "why?")


def probable(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    return nn.Sequential(normalized(input_shape, outputs), nn.Softmax(1))


def test_a_softmax_at_the_networks_end_is_told(tmp_path: Path) -> None:
    splits, _ = Blobs().load(seed=0, holdout=None)
    choice = NetworkChoice(name=f"{__name__}:probable")
    _, record = make_teacher(TASK, choice, GENTLE, SETTINGS, 3, splits, Path("."), Path("."), tmp_path)
    assert any("take the Softmax off its end" in line for line in record.warnings)
    _, record = made(None, GENTLE, tmp_path / "logits")
    assert not any("Softmax" in line for line in record.warnings)
