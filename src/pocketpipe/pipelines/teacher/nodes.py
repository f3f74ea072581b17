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
from pocketpipe.training.recipe import TeacherRecipe, TrainerSettings


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
    """(teacher, record). Given weights are it, or where its training starts; a champion's teacher is always a start."""
    task = task_choice.build(data_root)
    start, whence = network_choice.fresh(), "random weights"
    given = None
    weights = network_choice.weights_path(weights_root)
    if weights is not None:
        start, given = _given(start, weights, task, splits)
        if recipe.given_weights == "final":
            return start, given
        whence = f"given weights {weights.name}"
    if champion is not None:
        start, whence = champion.teacher, "champion's teacher"
    fitted = fit(
        start,
        task_choice,
        data_root,
        splits,
        recipe.training,
        trainer,
        seed=seed,
        workspace=workspace,
        title="teacher",
    )
    metrics = _metrics(fitted.network, task, splits)
    return fitted.network, StageRecord(
        stage="teacher",
        headline=_in_words(metrics),
        metrics=metrics,
        curves=fitted.curves,
        facts={**(given.facts if given is not None else {}), "start": whence, **fitted.facts},
        warnings=given.warnings if given is not None else (),
        data=splits.selection.name,
    )


def _given(network: StoredNetwork, weights: Path, task: Task, splits: Splits) -> tuple[StoredNetwork, StageRecord]:
    """(`network` with the weights in a file, what is known of them)."""
    brought = network.with_weights(replace(network, state=read_weights(weights)).build(task))
    metrics = _metrics(brought, task, splits)
    seen = contamination(
        train_metric=metrics[f"train_{task.metric_name}"],
        val_metric=metrics[f"val_{task.metric_name}"],
        holdout_metric=metrics.get(f"holdout_{task.metric_name}"),
        sizes={"train": _sample(splits.train), "val": len(splits.val), "holdout": len(splits.holdout or ())},
    )
    return brought, StageRecord(
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
