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
    """The trial with the largest speed-up whose score on the selection split keeps the accuracy that was asked.

    `dense_score` is the teacher's on the same split. A budget without compression or file size is compared by speed-up,
    one without speed-up or MACs by compression. `missed` is what was delivered and lost too much on test: plans that
    are about as small are no answer, whatever their score on the selection split. None if no trial passes.
    """
    passing = [
        trial
        for trial in trials
        if budget.allows_metric(score_of(trial), dense_score, higher_is_better=higher_is_better)
        and (missed is None or _is_larger(trial, missed, budget))
    ]
    by_bytes_alone = budget.speedup is None and budget.macs is None

    def nearness(trial: Trial) -> tuple[float, float, int]:
        ratios = (trial.speedup, trial.compression)
        return (*(reversed(ratios) if by_bytes_alone else ratios), -trial.index)

    return max(passing, key=nearness, default=None)


def score_of(trial: Trial) -> float:
    """After the short fine-tuning, if it got one."""
    return trial.score if trial.tuned_score is None else trial.tuned_score


def _is_larger(trial: Trial, other: Trial, budget: Budget) -> bool:
    """In a cost that the budget bounds, and that is known of both."""
    bounded = [(getattr(trial.cost, name), getattr(other.cost, name)) for name in budget.limits(other.cost).given()]
    return any(LARGER * mine > theirs for mine, theirs in bounded if mine is not None and theirs is not None)
