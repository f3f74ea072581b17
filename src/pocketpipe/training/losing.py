"""Whether a training lost what it was to win."""

from __future__ import annotations

from pocketpipe.reporting.numbers import metric_text
from pocketpipe.task import Task


def worse_than_before(task: Task, before: float, after: float, section: str) -> tuple[str, ...]:
    """A line if it did: too high a rate leaves the minimum that the weights came from. `section`: its recipe's."""
    worse = after < before if task.higher_is_better else after > before
    if not worse:
        return ()
    return (
        f"{section}: training ended at {metric_text(after)} {task.metric_name}, before it there were "
        f"{metric_text(before)}: lower {section}.learning_rate, or train longer",
    )
