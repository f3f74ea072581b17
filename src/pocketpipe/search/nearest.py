"""When the budget costs too much accuracy: the nearest plan among those tried that does not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pocketpipe.budget import Budget

if TYPE_CHECKING:
    from pocketpipe.search.trial import Trial

LARGER = 0.97
"""Of a larger plan's cost, what another plan has at most: budgets are met to 2 %."""


def nearest_passing(
    trials: Sequence[Trial],
    dense_score: float,
    budget: Budget,
    *,
    missed: Trial | None = None,
    higher_is_better: bool = True,
) -> Trial | None:
    """The trial nearest to the budget whose score on the selection split keeps the accuracy that was asked.

    `dense_score` is the teacher's on the same split. Nearest is the largest speed-up; the largest compression, if a
    budget has neither speed-up nor MACs; where it has flash or RAM alone, the least use of these. `missed` is what was
    delivered and lost too much on test: plans that are about as small are no answer, whatever their score on the
    selection split. None if no trial passes.
    """
    passing = [
        trial
        for trial in trials
        if budget.allows_metric(trial.last_score, dense_score, higher_is_better=higher_is_better)
        and (missed is None or _is_larger(trial, missed, budget))
    ]
    of_macs = budget.speedup is not None or budget.macs is not None
    of_bytes = budget.compression is not None or budget.file_bytes is not None

    def nearness(trial: Trial) -> tuple[float, ...]:
        if of_macs:
            return trial.speedup, trial.compression, -trial.index
        on_a_device = 0.0 if of_bytes else -budget.limits(trial.cost).usage(trial.cost)
        return on_a_device, trial.compression, trial.speedup, -trial.index

    return max(passing, key=nearness, default=None)


def _is_larger(trial: Trial, other: Trial, budget: Budget) -> bool:
    """In a cost that the budget bounds, and that is known of both."""
    bounded = [(getattr(trial.cost, name), getattr(other.cost, name)) for name in budget.limits(other.cost).given()]
    return any(LARGER * mine > theirs for mine, theirs in bounded if mine is not None and theirs is not None)
