"""Train the teacher, or take the weights that the user brings and say what they have seen."""

from dataclasses import replace
from pathlib import Path

from pocketpipe.champion import Champion
from pocketpipe.network import NetworkChoice, StoredNetwork
from pocketpipe.networks.weights import read_weights
from pocketpipe.record import StageRecord
from pocketpipe.task import Split, Splits, Task, TaskChoice
from pocketpipe.tasks.contamination import contamination
from pocketpipe.training.fit import fit
from pocketpipe.training.inference import metric_of
from pocketpipe.training.recipe import Recipe, TrainerSettings


def make_teacher(
    task_choice: TaskChoice,
    network_choice: NetworkChoice,
    recipe: Recipe,
    trainer: TrainerSettings,
    seed: int,
    splits: Splits,
    data_root: Path,
    weights_root: Path,
    workspace: Path,
    champion: Champion | None = None,
) -> tuple[StoredNetwork, StageRecord]:
    """(teacher, record). With given weights nothing is trained; with a champion its teacher is the start."""
    weights = network_choice.weights_path(weights_root)
    if weights is not None:
        return _given_teacher(task_choice.build(data_root), network_choice.fresh(), weights, splits)
    start = champion.teacher if champion is not None else network_choice.fresh()
    fitted = fit(
        start, task_choice, data_root, splits, recipe, trainer, seed=seed, workspace=workspace, title="teacher"
    )
    task = task_choice.build(data_root)
    metrics = _metrics(fitted.network, task, splits)
    facts = {"start": "champion's teacher" if champion is not None else "random weights", **fitted.facts}
    return fitted.network, StageRecord(
        stage="teacher",
        headline=_in_words(metrics),
        metrics=metrics,
        curves=fitted.curves,
        facts=facts,
        data=splits.selection.name,
    )


def _given_teacher(
    task: Task, network: StoredNetwork, weights: Path, splits: Splits
) -> tuple[StoredNetwork, StageRecord]:
    brought = replace(network, state=read_weights(weights))
    teacher = network.with_weights(brought.build(task))
    metrics = _metrics(teacher, task, splits)
    seen = contamination(
        train_metric=metrics[f"train_{task.metric_name}"],
        val_metric=metrics[f"val_{task.metric_name}"],
        holdout_metric=metrics.get(f"holdout_{task.metric_name}"),
        sizes={"train": _sample(splits.train), "val": len(splits.val), "holdout": len(splits.holdout or ())},
    )
    return teacher, StageRecord(
        stage="teacher",
        headline=f"training skipped, weights given: {_in_words(metrics)}",
        metrics=metrics,
        facts={"start": f"given weights {weights.name}; training skipped", "val_looks_memorized": seen.suspicious},
        warnings=seen.warnings,
        data="; ".join(split.name for split in _measured_splits(splits)),
    )


def _metrics(network: StoredNetwork, task: Task, splits: Splits) -> dict[str, float]:
    module = network.build(task)
    measured = dict(zip(("train", "val", "holdout"), _measured_splits(splits), strict=False))
    return {f"{role}_{task.metric_name}": metric_of(module, task, split) for role, split in measured.items()}


def _in_words(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in metrics.items())


TRAIN_SAMPLE = 5000
"""Train images that are looked at: enough for a standard error of 0.7 points, a tenth of CIFAR-10's time."""


def _sample(train: Split) -> int:
    return min(TRAIN_SAMPLE, len(train))


def _measured_splits(splits: Splits) -> list[Split]:
    count = _sample(splits.train)
    train = Split(f"first {count:,} of {splits.train.name}", splits.train.inputs[:count], splits.train.targets[:count])
    return [train, splits.val, *([splits.holdout] if splits.holdout is not None else [])]
