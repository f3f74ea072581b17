"""The best trials get a short fine-tuning; the winner of that goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite

from pocketpipe.errors import Diverged, UserError
from pocketpipe.search.store import TrialStore
from pocketpipe.search.trial import Trial

Tune = Callable[[Trial], float]
"""Fine-tunes a trial's network shortly, and scores it on the selection split. It shows its own progress, and raises
Diverged."""


@dataclass(frozen=True)
class Choice:
    """The trial that goes on, and all trials, finalists with their tuned score."""

    winner: Trial
    trials: list[Trial]
    dropped: tuple[str, ...] = ()
    """A line for each finalist whose training came to nothing."""


def finalists_of(trials: Sequence[Trial], count: int, *, higher_is_better: bool = True) -> list[Trial]:
    """The best `count` distinct plans that the tuner, the uniform rule or the weights proposed, best first.

    The uniform plan has a place whenever there are two: it is what the winner is compared with after the same
    fine-tuning. So has a champion's, beside the others. Equal scores: the faster plan, then the earlier one.
    """
    distinct = {
        trial.plan_json: trial
        for trial in reversed(trials)
        if trial.origin in ("tuner", "uniform", "informed") and trial.same_as is None
    }
    sign = -1.0 if higher_is_better else 1.0
    ranked = sorted(distinct.values(), key=lambda trial: (sign * trial.score, -trial.speedup, trial.index))
    best = ranked[:count]
    left_out = [trial for trial in ranked[count:] if trial.origin == "uniform"]
    chosen = [*best[:-1], *left_out[:1]] if left_out and count > 1 else best
    known = {trial.plan_json for trial in chosen}
    return [*chosen, *(trial for trial in trials if trial.origin == "champion" and trial.plan_json not in known)]


def choose(
    trials: Sequence[Trial],
    tune: Tune,
    *,
    count: int,
    store: TrialStore,
    higher_is_better: bool = True,
) -> Choice:
    """Fine-tune the `count` finalists and choose the best by tuned score. Resumable: `store` keeps each score.

    Equal tuned scores: the one with the better score before. A finalist whose training diverges drops out. Raises
    UserError if there is nothing to choose from, Diverged if no finalist is left.
    """
    finalists = finalists_of(trials, count, higher_is_better=higher_is_better)
    if not finalists:
        raise UserError("search: no trial of the tuner or the uniform rule to choose from")
    sign = 1.0 if higher_is_better else -1.0
    tuned: dict[str, float] = {}
    dropped: list[str] = []
    for trial in finalists:
        try:
            tuned[trial.plan_json] = _tuned_score(trial, tune, store)
        except Diverged as error:
            dropped.append(f"finalist {trial.index} drops out: {error}")
    left = [trial for trial in finalists if trial.plan_json in tuned]
    if not left:
        raise Diverged("\n".join(dropped))
    winner = max(left, key=lambda trial: (sign * tuned[trial.plan_json], sign * trial.score))
    known = [trial.model_copy(update={"tuned_score": tuned.get(trial.plan_json)}) for trial in trials]
    return Choice(next(trial for trial in known if trial.index == winner.index), known, tuple(dropped))


def _tuned_score(trial: Trial, tune: Tune, store: TrialStore) -> float:
    known = store.tuned(trial.plan_json)
    if known is not None:
        return known
    score = float(tune(trial))
    if not isfinite(score):
        raise Diverged(f"its score after the training is {score}; lower finalists.learning_rate")
    store.add_tuned(trial.plan_json, score)
    return score
