"""Whether a training lost what it was to win."""

from __future__ import annotations

from pocketpipe.reporting.numbers import metric_text
from pocketpipe.task import Task
from pocketpipe.tasks.contamination import error_of_difference


def worse_than_before(task: Task, before: float, after: float, examples: int, section: str) -> tuple[str, ...]:
    """A line if it did: too high a rate leaves the minimum that the weights came from. `section`: its recipe's.

    A share of `examples` counts as less only beyond one standard error: of 21 examples, one is noise.
    """
    error = error_of_difference(before, examples, after, examples) if task.metric_span == 1.0 else 0.0
    worse = before - after if task.higher_is_better else after - before
    if worse <= 0 or worse < error:
        return ()
    return (
        f"{section}: training ended at {metric_text(after)} {task.metric_name}, before it there were "
        f"{metric_text(before)}: lower {section}.learning_rate, or train longer",
    )
