"""Train the teacher, or take the weights that the user brings and say what they have seen."""

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Self

import numpy as np

from pocketpipe.champion import Champion
from pocketpipe.network import NetworkChoice, StoredNetwork
from pocketpipe.networks.weights import with_weights_of
from pocketpipe.record import StageRecord
from pocketpipe.task import Split, Splits, Task, TaskChoice
from pocketpipe.tasks.contamination import Contamination, contamination
from pocketpipe.training.fit import fit
from pocketpipe.training.inference import predict, score_of
from pocketpipe.training.losing import worse_than_before
from pocketpipe.training.recipe import TeacherRecipe, TrainerSettings
from pocketpipe.training.rehearsal import rehearse

FEW = 64
"""Examples that tell what kind of numbers a network answers with."""
BETTER_THAN_GUESSING = 0.1
"""Of what guessing leaves over, the least that weights worth compressing know."""


STUDENT_ALONE = (
    "the teacher's weights are given, so this retraining trains the student alone; "
    "with teacher: {given_weights: start} the champion's teacher is trained on"
)


def make_teacher(
    task_choice: TaskChoice,
    network_choice: NetworkChoice,
    recipe: TeacherRecipe,
    trainer: TrainerSettings,
    seed: int,
    splits: Splits,
    data_root: Path,
    weights_root: Path,
    workspace: Path,
    champion: Champion | None = None,
) -> tuple[StoredNetwork, StageRecord]:
    """(teacher, record). Given weights are it, or where its training starts; a champion's teacher starts it too."""
    task = task_choice.build(data_root)
    weights = network_choice.weights_path(weights_root)
    final = recipe.given_weights == "final"
    start, whence, given = network_choice.fresh(), "random weights", None
    are_given = weights is not None and (final or champion is None)
    if weights is not None and are_given:
        start, whence = with_weights_of(weights, start, task), f"given weights {weights.name}"
    elif champion is not None:
        start, whence = champion.teacher, "champion's teacher"
    rehearse(task, start.build(task), splits.val, recipe, trainer)
    if are_given:
        given = _Given.of(start, task, splits, trainer)
        if final:
            told = () if champion is None else (STUDENT_ALONE,)
            return start, given.record(f"{whence}; training skipped", told)
    fitted = fit(
        start,
        task_choice,
        data_root,
        splits,
        recipe.plain,
        trainer,
        seed=seed,
        workspace=workspace,
        title="teacher",
    )
    metrics = _metrics(fitted.network, task, splits, trainer)
    lost: tuple[str, ...] = ()
    if start.state:
        before = score_of(start, task, splits.val, trainer)
        lost = worse_than_before(task, before, metrics[f"val_{task.metric_name}"], len(splits.val), "teacher")
    advice = "train it longer (teacher.epochs), or at another teacher.learning_rate"
    guessing = _hardly_better_than_guessing(
        metrics[f"val_{task.metric_name}"], splits.val, task, "the teacher has", advice
    )
    doubts = given.warnings if given is not None else _probabilities(fitted.network, task, splits.val)
    return fitted.network, StageRecord(
        stage="teacher",
        headline=_in_words(metrics),
        metrics=metrics,
        curves=fitted.curves,
        facts={"start": whence, **(given.facts if given is not None else {}), **fitted.facts},
        warnings=(*guessing, *doubts, *lost),
        data="; ".join(split.name for split in _measured_splits(splits)),
        curves_of=splits.curves_of,
    )


@dataclass(frozen=True)
class _Given:
    """What is known of weights that the user brings."""

    metrics: dict[str, float]
    seen: Contamination
    data: str
    doubts: tuple[str, ...] = ()
    """A line if they do hardly better than guessing, one if they answer with probabilities."""

    @classmethod
    def of(cls, network: StoredNetwork, task: Task, splits: Splits, trainer: TrainerSettings) -> Self:
        metrics = _metrics(network, task, splits, trainer)
        seen = contamination(
            train_metric=metrics[f"train_{task.metric_name}"],
            val_metric=metrics[f"val_{task.metric_name}"],
            holdout_metric=metrics.get(f"holdout_{task.metric_name}"),
            sizes={"train": _sample(splits.train), "val": len(splits.val), "holdout": len(splits.holdout or ())},
            higher_is_better=task.higher_is_better,
        )
        told = "are preprocessing, order of axes and order of labels those of their training?"
        guessing = _hardly_better_than_guessing(
            metrics[f"val_{task.metric_name}"], splits.val, task, "the given weights have", told
        )
        warnings = (*guessing, *_probabilities(network, task, splits.val))
        return cls(metrics, seen, "; ".join(split.name for split in _measured_splits(splits)), warnings)

    @property
    def warnings(self) -> tuple[str, ...]:
        return (*self.doubts, *self.seen.warnings)

    @property
    def facts(self) -> dict[str, Any]:
        return {"val_looks_memorized": self.seen.suspicious}

    def record(self, start: str, told: tuple[str, ...]) -> StageRecord:
        """Of a stage that trains nothing."""
        return StageRecord(
            stage="teacher",
            headline=f"training skipped, weights given: {_in_words(self.metrics)}",
            metrics=self.metrics,
            facts={"start": start, **self.facts},
            warnings=(*told, *self.warnings),
            data=self.data,
        )


def _hardly_better_than_guessing(metric: float, split: Split, task: Task, who: str, advice: str) -> tuple[str, ...]:
    """A line if a teacher has next to nothing of what the most frequent class alone would score.

    Every budget relative to them would be kept by a network that knows nothing.
    """
    of_classes = split.targets.ndim == 1 and np.issubdtype(split.targets.dtype, np.integer)
    if not task.higher_is_better or len(task.labels) < 2 or not of_classes:
        return ()
    named = split.targets[(split.targets >= 0) & (split.targets < len(task.labels))]  # -1 or 255: of no class
    if not len(named):
        return ()
    classes, counts = np.unique(named, return_counts=True)
    always = np.eye(len(task.labels), dtype=np.float32)[np.full(len(split), classes[counts.argmax()])]
    guessing = task.metric(always, split.targets)
    if not 0.0 <= metric <= guessing + BETTER_THAN_GUESSING * (1.0 - guessing):
        return ()
    return (
        f"{who} {task.metric_name} {metric:.4f} on {split.name}, hardly more than the most frequent class alone "
        f"({guessing:.4f}): {advice}",
    )


def _probabilities(network: StoredNetwork, task: Task, split: Split) -> tuple[str, ...]:
    """A line if the network's answers add up to 1: it ends in a Softmax, and losses and distillation want logits."""
    outputs = predict(network.build(task), task, split.inputs[:FEW])
    add_up = outputs.ndim == 2 and outputs.shape[1] > 1 and np.allclose(outputs.sum(axis=1), 1.0, atol=1e-4)
    if not (add_up and outputs.min() >= 0.0):
        return ()
    return (
        f"network {network.reference!r} answers with probabilities: take the Softmax off its end, it has next to no "
        "gradient through it, and the largest logit is the largest probability",
    )


def _metrics(network: StoredNetwork, task: Task, splits: Splits, trainer: TrainerSettings) -> dict[str, float]:
    measured = dict(zip(("train", "val", "holdout"), _measured_splits(splits), strict=False))
    return {f"{role}_{task.metric_name}": score_of(network, task, split, trainer) for role, split in measured.items()}


def _in_words(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in metrics.items())


TRAIN_SAMPLE = 5000
"""Train images that are looked at: enough for a standard error of 0.7 points, a tenth of CIFAR-10's time."""
NUMBERS = 2**28
"""Of their inputs: a network for masks answers with as many."""


def _sample(train: Split) -> int:
    return min(TRAIN_SAMPLE, len(train), max(1, NUMBERS // prod(train.inputs.shape[1:])))


def _measured_splits(splits: Splits) -> list[Split]:
    count = _sample(splits.train)
    train = Split(f"first {count:,} of {splits.train.name}", splits.train.inputs[:count], splits.train.targets[:count])
    return [train, splits.val, *([splits.holdout] if splits.holdout is not None else [])]
