"""Read the data."""

from pathlib import Path

from pocketpipe.record import StageRecord
from pocketpipe.task import Split, Splits, TaskChoice


def load_data(task_choice: TaskChoice, data_root: Path, seed: int) -> tuple[Splits, Split, StageRecord]:
    """(train, val and holdout; test; record). The test split goes to the evaluate stage alone."""
    task = task_choice.build(data_root)
    splits, test = task.load(seed=seed, holdout=task_choice.holdout)
    known = [split for split in (splits.train, splits.val, splits.holdout, test) if split is not None]
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
        data="; ".join(split.name for split in known),
    )
    return splits, test, record


def _role(split: Split, splits: Splits) -> str:
    roles = {id(splits.train): "train", id(splits.val): "val", id(splits.holdout): "holdout"}
    return roles.get(id(split), "test")
