"""When the budget costs too much accuracy: the nearest plan among those tried that does not."""

from __future__ import annotations

from collections.abc import Sequence

from pocketpipe.budget import KB, Budget
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
        if budget.allows_metric(_score(trial), dense_score, higher_is_better=higher_is_better)
        and (missed is None or _is_larger(trial, missed, budget))
    ]
    by_bytes_alone = budget.speedup is None and budget.macs is None

    def nearness(trial: Trial) -> tuple[float, float, int]:
        ratios = (trial.speedup, trial.compression)
        return (*(reversed(ratios) if by_bytes_alone else ratios), -trial.index)

    return max(passing, key=nearness, default=None)


def in_words(trial: Trial | None, dense_score: float, budget: Budget) -> str:
    """For the verdicts and the report, in the terms of the budget."""
    if trial is None:
        return (
            "no plan that was tried keeps the accuracy asked. Plans of relaxed budgets are judged before any "
            "fine-tuning, after which they may: relax the budget a little, train longer, or give the search more trials"
        )
    when = "before fine-tuning" if trial.tuned_score is None else "after a short fine-tuning"
    return (
        f"trial {trial.index} ({trial.origin}): {trial.speedup:.2f}x fewer MACs, "
        f"{trial.compression:.2f}x smaller file, {_on_a_device(trial, budget)}"
        f"metric {_score(trial):.4f} on the selection split {when} (teacher {dense_score:.4f})"
    )


def _on_a_device(trial: Trial, budget: Budget) -> str:
    """What the plan is predicted to take there, where the budget asks."""
    taken = {"flash": (budget.flash_kb, trial.cost.flash_bytes), "RAM": (budget.ram_kb, trial.cost.peak_ram_bytes)}
    return "".join(
        f"{size / KB:.1f} kB of {name}, " for name, (asked, size) in taken.items() if asked and size is not None
    )


def _score(trial: Trial) -> float:
    return trial.score if trial.tuned_score is None else trial.tuned_score


def _is_larger(trial: Trial, other: Trial, budget: Budget) -> bool:
    """In a cost that the budget bounds, and that is known of both."""
    bounded = [(getattr(trial.cost, name), getattr(other.cost, name)) for name in budget.limits(other.cost).given()]
    return any(LARGER * mine > theirs for mine, theirs in bounded if mine is not None and theirs is not None)
