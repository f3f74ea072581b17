"""Metrics of classification tasks, against scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from pocketpipe.errors import UserError
from pocketpipe.task import Split
from pocketpipe.tasks.classification import MacroF1


class Three(MacroF1):
    labels = ("ok", "loose", "broken")

    def source_digest(self) -> str:
        return "three"


@pytest.mark.parametrize("classes", [(0, 1, 2), (0, 1)], ids=["all", "one never occurs"])
def test_the_mean_of_scores_is_macro_f1(classes: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    targets = random.choice(classes, 200, p=[0.8, *[0.2 / (len(classes) - 1)] * (len(classes) - 1)])
    outputs = random.normal(size=(200, 3)) + 1.5 * np.eye(3)[targets]
    found, task = outputs.argmax(1), Three()
    of_each = f1_score(targets, found, labels=classes, average=None)
    assert task.scores(outputs, targets).mean() == pytest.approx(of_each.mean())
    assert task.metric(outputs, targets) == pytest.approx(of_each.mean())
    by_class = task.metric_by_class(outputs, targets)
    assert list(by_class.values()) == pytest.approx(of_each.tolist())
    assert list(by_class) == [Three.labels[index] for index in classes]


class Bare(Three):
    """What people write who have not read what `read` returns."""

    input_shape = (2,)
    given: object = Split("all", np.zeros((3, 2), np.float32), np.zeros(3, np.int64))

    def read(self) -> Any:
        return self.given


TENSORS: Any = (torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64))


class OfTensors(Bare):
    given = (Split("all", *TENSORS), None)


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (Bare(), r"task Bare: read\(\) returns a Split; it must return two: \(all examples, None\)"),
        (OfTensors(), "all: examples are a Tensor; give a NumPy array"),
    ],
)
def test_what_read_must_return_is_told(task: Bare, said: str) -> None:
    with pytest.raises(UserError, match=said):
        task.load(seed=0, holdout=None)


def test_nothing_right_is_zero() -> None:
    assert Three().metric(np.eye(3)[[1, 2, 0]], np.array([0, 1, 2])) == 0.0
