"""Classification of anything: cross-entropy, accuracy, agreement of the arg max, and how examples are split."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from pocketpipe.errors import UserError
from pocketpipe.task import Split, Splits, Task
from pocketpipe.tasks.splitting import stratified

if TYPE_CHECKING:
    import torch


class ClassificationTask(Task):
    """Base of classification tasks: a subclass sets shapes, labels and preprocessing, and reads its examples.

    Targets are class indices (N,), int64; outputs are logits (N, classes).

    The test examples do not depend on the seed: figures of different runs, and of a champion and its
    challenger, are then measured on the same images, and no run has learned from another run's test. For data that
    grows this takes `pick = staticmethod(by_content)`.
    """

    metric_name = "accuracy"
    metric_span = 1.0
    holdouts: tuple[str, ...] = ("test_half",)
    test_share = 0.2
    """Of all examples, where no test split was published."""
    val_share = 0.1
    """Of the examples that are not test."""
    pick: Callable[[Split, float, str], np.ndarray] = staticmethod(stratified)
    """How a share of a split is chosen: indices from (split, share, salt); another salt, another choice."""

    def read(self) -> tuple[Split, Split | None]:
        """(all examples, None), or (published training examples, published test examples).

        Their names say what they are in the plural: "digits", "CIFAR-10 test images". Raises UserError.
        A task that brings splits of its own overrides `load` instead.
        """
        raise UserError(
            f"task {type(self).__name__}: give it read(), for all examples, or load(), for splits of its own"
        )

    def load(self, *, seed: int, holdout: str | None) -> tuple[Splits, Split]:
        """(splits, test). With holdout `test_half`, one half of test chooses plans and the other half measures."""
        if holdout is not None and holdout not in self.holdouts:
            raise UserError(f"task.holdout: {holdout!r} is unknown; allowed: null, {', '.join(self.holdouts)}")
        examples, test = self._read()
        self.refuse_misfits(examples, *([] if test is None else [test]))
        seeded = f", seed {seed}"
        if test is None:
            development, test = self._part(examples, self.test_share, "test")
            test = _named("test", test, examples)
        else:
            development, test = examples, _named("test", test, test)
        train, val = self._part(development, self.val_share, f"val {seed}")
        selection = None
        if holdout == "test_half":
            other, half = self._part(test, 0.5, "holdout")
            whole = test.name.removeprefix("test, ")
            selection = Split(f"holdout, half of test: {len(half):,} of {whole}", half.inputs, half.targets)
            test = Split(f"test, its other half: {len(other):,} of {whole}", other.inputs, other.targets)
        splits = Splits(_named("train", train, examples, seeded), _named("val", val, examples, seeded), selection)
        return splits, test

    def _read(self) -> tuple[Split, Split | None]:
        found: object = self.read()
        if not isinstance(found, tuple) or len(found) != 2:
            raise UserError(
                f"task {type(self).__name__}: read() returns a {type(found).__name__}; it must return two: "
                "(all examples, None), or (training examples, test examples)"
            )
        return found

    @property
    def redraws_splits(self) -> bool:
        """Where `load` is this class's and `pick` the default."""
        return type(self).load is ClassificationTask.load and type(self).pick is stratified

    def _misfits(self, split: Split) -> list[str]:
        targets, labels = split.targets, len(self.labels)
        if targets.shape != (len(split),) or targets.dtype != np.int64:
            said = f"{targets.dtype} of shape {targets.shape}"
            wrong = [f"{split.name}: targets are {said}; class numbers are int64 of shape ({len(split)},)"]
        elif len(targets) and not 0 <= targets.min() <= targets.max() < labels:
            wrong = [f"{split.name}: targets go from {targets.min()} to {targets.max()}; labels are {labels}"]
        else:
            wrong = []
        return super()._misfits(split) + wrong

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor, *, smoothing: float = 0.0) -> torch.Tensor:
        """Cross-entropy of logits (N, classes) with label smoothing (Szegedy 2016), averaged over the batch."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(outputs, targets, label_smoothing=smoothing)

    def scores(self, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """1.0 for each example (N,) whose largest output is its class, else 0.0."""
        correct: np.ndarray = outputs.argmax(axis=-1) == targets
        return correct.astype(np.float64)

    def metric_by_class(self, outputs: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """Accuracy within each class that occurs in `targets`."""
        scores = self.scores(outputs, targets)
        return {self.labels[index]: float(scores[targets == index].mean()) for index in np.unique(targets)}

    def agreement(self, outputs: np.ndarray, reference: np.ndarray) -> float:
        """Share of examples (0..1) that both put into the same class."""
        return float((outputs.argmax(axis=-1) == reference.argmax(axis=-1)).mean())

    def _part(self, split: Split, share: float, salt: str) -> tuple[Split, Split]:
        """(the rest, the share that `pick` chooses), both in stored order."""
        chosen = np.zeros(len(split), bool)
        chosen[type(self).pick(split, share, salt)] = True
        return split.take(np.flatnonzero(~chosen)), split.take(np.flatnonzero(chosen))


class MacroF1(ClassificationTask):
    """Classification whose classes are of unequal weight: judged by the mean over classes of their F1.

    Of the classes that occur. An example that is put into its class counts `2 N / (classes * (true + said))`, N being
    all examples, `true` and `said` those of its class and those put into it: the mean of these is macro F1 exactly. So
    it is a figure of all that are looked at together; one of the first thousand of them is another figure.
    """

    metric_name = "macro F1"

    def scores(self, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """What each example (N,) adds to macro F1, times N."""
        found, labels = outputs.argmax(axis=-1), len(self.labels)
        true, said = np.bincount(targets, minlength=labels), np.bincount(found, minlength=labels)
        worth = 2 * len(targets) / (np.count_nonzero(true) * (true[targets] + said[targets]))
        return np.where(found == targets, worth, 0.0)

    def metric_by_class(self, outputs: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """F1 of each class that occurs in `targets`."""
        found = outputs.argmax(axis=-1)
        of_class = {int(index): (found == index, targets == index) for index in np.unique(targets)}
        return {
            self.labels[index]: float(2 * (said & true).sum() / (said.sum() + true.sum()))
            for index, (said, true) in of_class.items()
        }


def _named(role: str, split: Split, source: Split, tail: str = "") -> Split:
    size = (
        f"{len(split):,} {source.name}"
        if len(split) == len(source)
        else f"{len(split):,} of {len(source):,} {source.name}"
    )
    return Split(f"{role}, {size}{tail}", split.inputs, split.targets)
