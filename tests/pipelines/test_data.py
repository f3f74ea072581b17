"""The data stage: what it says of the examples."""

from __future__ import annotations

import numpy as np
import pytest

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
