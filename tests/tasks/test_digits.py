"""The embedded digits: what the splits are, that they are honest, and the classification base on real data."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import accuracy_score, log_loss, recall_score

from pocketpipe.errors import UserError
from pocketpipe.task import Preprocessing, Split, TaskChoice
from pocketpipe.tasks.classification import ClassificationTask

NOWHERE = Path("no-data-folder-needed")


@pytest.fixture(scope="module")
def task():
    return TaskChoice(name="digits").build(NOWHERE)


def test_splits_hold_every_digit_once_as_scikit_learn_has_it(task) -> None:
    splits, test = task.load(seed=0, holdout=None)
    parts = (splits.train, splits.val, test)
    assert [part.name for part in parts] == [
        "train, 1,168 of 1,797 digits, seed 0",
        "val, 270 of 1,797 digits, seed 0",
        "test, 359 of 1,797 digits",
    ]
    images, targets = load_digits(return_X_y=True)
    together = np.concatenate([np.c_[p.inputs.reshape(len(p), -1), p.targets] for p in parts])
    expected = np.c_[images, targets]
    assert sorted(map(bytes, together.astype(np.uint8))) == sorted(map(bytes, expected.astype(np.uint8)))
    assert splits.train.inputs.shape[1:] == task.input_shape
    assert splits.train.inputs.dtype == np.uint8


def test_every_class_has_its_share_in_every_split(task) -> None:
    splits, test = task.load(seed=3, holdout=None)
    sizes = np.bincount(load_digits(return_X_y=True)[1])
    for part, share in ((splits.train, 0.65), (splits.val, 0.15), (test, 0.20)):
        np.testing.assert_allclose(np.bincount(part.targets), share * sizes, atol=2.1)


def test_the_seed_moves_val_and_never_test(task) -> None:
    first, test_first = task.load(seed=0, holdout=None)
    again, _ = task.load(seed=0, holdout=None)
    other, test_other = task.load(seed=1, holdout=None)
    assert first.val.digest == again.val.digest
    assert first.val.digest != other.val.digest
    assert test_first.digest == test_other.digest


def test_test_half_parts_test_in_two_and_touches_nothing_else(task) -> None:
    plain, whole = task.load(seed=0, holdout=None)
    splits, test = task.load(seed=0, holdout="test_half")
    assert splits.selection is splits.holdout
    assert splits.holdout is not None
    assert splits.holdout.name == "holdout, half of test: 180 of 359 of 1,797 digits"
    assert test.name == "test, its other half: 179 of 359 of 1,797 digits"
    assert splits.train.digest == plain.train.digest
    halves = sorted([bytes(x) for x in splits.holdout.inputs] + [bytes(x) for x in test.inputs])
    assert halves == sorted(bytes(x) for x in whole.inputs)


def test_an_unknown_holdout_is_refused(task) -> None:
    with pytest.raises(UserError, match=r"task\.holdout: 'tset' is unknown; allowed: null, test_half"):
        task.load(seed=0, holdout="tset")


def test_rows_are_the_same_digits_in_the_same_splits(task) -> None:
    rows = TaskChoice(name="digit_rows").build(NOWHERE)
    splits, test = task.load(seed=0, holdout=None)
    row_splits, row_test = rows.load(seed=0, holdout=None)
    np.testing.assert_array_equal(row_splits.train.inputs, splits.train.inputs[:, 0])
    np.testing.assert_array_equal(row_test.targets, test.targets)
    assert rows.preprocessing(row_test.inputs).shape == (359, 8, 8)
    view = rows.augment(torch.from_numpy(row_test.inputs), torch.Generator().manual_seed(0))
    assert view.shape == (359, 8, 8)
    assert view.dtype == torch.uint8


def test_preprocessing_centres_and_scales(task) -> None:
    splits, _ = task.load(seed=0, holdout=None)
    prepared = task.preprocessing(splits.train.inputs)
    assert prepared.dtype == np.float32
    assert abs(prepared.mean()) < 0.02
    assert abs(prepared.std() - 1) < 0.02


def test_metrics_are_those_of_scikit_learn(task) -> None:
    random = np.random.default_rng(0)
    targets = random.integers(0, 10, 500)
    outputs = random.standard_normal((500, 10)).astype(np.float32)
    outputs[np.arange(500), targets] += 1.5
    guesses = outputs.argmax(1)
    assert task.metric(outputs, targets) == pytest.approx(accuracy_score(targets, guesses))
    recalls = recall_score(targets, guesses, average=None)
    assert task.metric_by_class(outputs, targets) == pytest.approx(dict(zip("0123456789", recalls, strict=True)))
    other = outputs[::-1]
    assert task.agreement(outputs, other) == pytest.approx(accuracy_score(guesses, other.argmax(1)))
    loss = task.loss(torch.from_numpy(outputs), torch.from_numpy(targets))
    probabilities = torch.from_numpy(outputs).double().softmax(1).numpy()
    assert float(loss) == pytest.approx(log_loss(targets, probabilities, labels=range(10)), rel=1e-5)


def test_label_smoothing_is_a_mix_with_the_uniform_distribution(task) -> None:
    outputs = torch.randn(6, 10, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(6)
    logs = outputs.log_softmax(1)
    expected = -(0.9 * logs[range(6), targets] + 0.1 * logs.mean(1)).mean()
    assert task.loss(outputs, targets, smoothing=0.1) == pytest.approx(float(expected), rel=1e-5)


def test_a_class_that_does_not_occur_has_no_figure(task) -> None:
    assert task.metric_by_class(np.eye(10)[[3, 4]], np.array([3, 3])) == {"3": 0.5}


def test_the_digest_is_of_the_contents_and_not_of_the_name() -> None:
    split = Split("a", np.zeros((2, 3), np.uint8), np.zeros(2, np.int64))
    assert split.digest == Split("b", split.inputs, split.targets).digest
    assert split.digest != Split("a", split.inputs, np.array([0, 1])).digest


class OwnSplits(ClassificationTask):
    """Has neither `read` nor `load` yet."""

    input_shape = (1,)
    labels = ("a", "b")
    preprocessing = Preprocessing()

    def source_digest(self) -> str:
        return ""


def test_a_task_without_read_or_load_is_told_so() -> None:
    with pytest.raises(UserError, match=r"task OwnSplits: give it read\(\), for all examples, or load\(\)"):
        OwnSplits().load(seed=0, holdout=None)
