"""The data stage: what it says of the examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pocketpipe.errors import Mistakes
from pocketpipe.pipelines.data.nodes import load_data
from pocketpipe.task import Split, Splits, TaskChoice
from training.samples import Blobs, blobs


@pytest.mark.parametrize("by_class", [False, True])
def test_examples_that_are_sorted_by_class_are_told(by_class: bool, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    def load(self: Blobs, *, seed: int, holdout: str | None) -> tuple[Splits, Split]:
        train = blobs("train", 1200, seed)
        order = np.argsort(train.targets, kind="stable")
        return Splits(train.take(order) if by_class else train, blobs("val", 80, 1)), blobs("test", 80, 2)

    monkeypatch.setattr(Blobs, "load", load)
    _, _, record = load_data(TaskChoice(name="training.samples:build_task"), tmp_path, 0)
    if by_class:
        (warning,) = record.warnings
        assert warning.startswith("train: the first 512 examples have 2 of 4 classes; ")
    else:
        assert record.warnings == ()


def test_examples_of_test_that_are_sorted_by_class_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def load(self: Blobs, *, seed: int, holdout: str | None) -> tuple[Splits, Split]:
        test = blobs("test", 1200, 2)
        return Splits(blobs("train", 80, 0), blobs("val", 80, 1)), test.take(np.argsort(test.targets, kind="stable"))

    monkeypatch.setattr(Blobs, "load", load)
    _, _, record = load_data(TaskChoice(name="training.samples:build_task"), tmp_path, 0)
    (warning,) = record.warnings
    assert "emulated targets are checked on the first ones" in warning


def test_examples_that_are_no_numbers_are_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def load(self: Blobs, *, seed: int, holdout: str | None) -> tuple[Splits, Split]:
        train = blobs("train", 40, 0)
        inputs = np.log(train.inputs.astype(np.float32) + 1)
        inputs[3, 0, 0, 0], inputs[5, 0, :2, 0] = -np.inf, np.nan
        return Splits(Split("train", inputs, train.targets), blobs("val", 8, 1)), blobs("test", 8, 2)

    monkeypatch.setattr(Blobs, "load", load)
    with pytest.raises(Mistakes, match=r"train: 2 examples hold NaN or infinity"):
        load_data(TaskChoice(name="training.samples:build_task"), tmp_path, 0)


@pytest.mark.parametrize(
    ("inputs", "targets", "said"),
    [
        (np.uint64, np.int64, "train: examples are of type uint64; use numbers"),
        (object, np.int64, "train: examples are of type object; use numbers"),
        (np.longdouble, np.int64, "train: examples are of type float128; use numbers"),
        (np.complex64, np.int64, "train: examples are of type complex64; use numbers"),
        (np.uint8, "<U3", "train: targets are of type <U3; use numbers"),
    ],
)
def test_types_that_no_tensor_has_are_told(
    inputs: Any, targets: Any, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def load(self: Blobs, *, seed: int, holdout: str | None) -> tuple[Splits, Split]:
        given = blobs("train", 40, 0)
        train = Split("train", given.inputs.astype(inputs), given.targets.astype(targets))
        return Splits(train, blobs("val", 8, 1)), blobs("test", 8, 2)

    monkeypatch.setattr(Blobs, "load", load)
    with pytest.raises(Mistakes, match=said):
        load_data(TaskChoice(name="training.samples:build_task"), tmp_path, 0)


def test_splits_of_ones_own_are_what_the_task_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def load(self: Blobs, *, seed: int, holdout: str | None) -> tuple[Splits, Split]:
        train, wide = blobs("train", 40, 0), np.zeros((8, 1, 6, 7), np.uint8)
        few = Split("val, another sensor", wide, np.zeros(7, np.int64))
        return Splits(train, few), train.take(np.arange(0), name="test, none left")

    monkeypatch.setattr(Blobs, "load", load)
    with pytest.raises(Mistakes) as refusal:
        load_data(TaskChoice(name="training.samples:build_task"), tmp_path, 0)
    assert str(refusal.value).splitlines() == [
        "val, another sensor: an example has shape (1, 6, 7), input_shape is (1, 6, 6)",
        "val, another sensor: 8 examples have 7 targets",
        "test, none left: it has no examples",
    ]
