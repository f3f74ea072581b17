"""Read the data."""

from pathlib import Path

import numpy as np

from pocketpipe.record import StageRecord
from pocketpipe.task import Split, Splits, TaskChoice


def load_data(task_choice: TaskChoice, data_root: Path, seed: int) -> tuple[Splits, Split, StageRecord]:
    """(train, val and holdout; test; record). The test split goes to the evaluate stage alone.

    Raises UserError for examples that cannot be read or are not what the task says.
    """
    task = task_choice.build(data_root)
    splits, test = task.load(seed=seed, holdout=task_choice.holdout)
    known = [split for split in (splits.train, splits.val, splits.holdout, test) if split is not None]
    task.refuse_misfits(*known)
    record = StageRecord(
        stage="data",
        metrics={f"{_role(split, splits)}_examples": len(split) for split in known},
        facts={
            "classes": len(task.labels),
            "input_shape": list(task.input_shape),
            "plans_chosen_on": splits.selection.name,
            "measured_on": test.name,
            **{f"{_role(split, splits)}_digest": split.digest for split in known},
        },
        warnings=(
            *_sorted_by_class(splits.train, seed, "ranges and statistics come from the first ones"),
            *_sorted_by_class(test, seed, "emulated targets are checked on the first ones"),
        ),
        data="; ".join(split.name for split in known),
    )
    return splits, test, record


FEWEST_CLASSES = 3
"""Of two, a rare one may be missing by chance."""
FIRST = 512
"""Examples that quantization ranges come from; BatchNorm's statistics come from four times as many."""


def _sorted_by_class(split: Split, seed: int, what_for: str) -> tuple[str, ...]:
    """A line if the first examples, which stages look at for all, have at most half of the classes that as many drawn
    at random have."""
    if split.targets.ndim != 1 or not np.issubdtype(split.targets.dtype, np.integer):
        return ()
    drawn = np.random.default_rng(seed).permutation(split.targets)[:FIRST]
    there, first, at_random = (len(np.unique(labels)) for labels in (split.targets, split.targets[:FIRST], drawn))
    if at_random < FEWEST_CLASSES or 2 * first > at_random:
        return ()
    return (
        f"{split.name}: the first {min(FIRST, len(split)):,} examples have {first} of {there} classes; {what_for}, "
        "so mix the classes (seeded) where the task reads them",
    )


def _role(split: Split, splits: Splits) -> str:
    roles = {id(splits.train): "train", id(splits.val): "val", id(splits.holdout): "holdout"}
    return roles.get(id(split), "test")
