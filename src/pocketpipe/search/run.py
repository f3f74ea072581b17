"""The search: tuner proposals, the uniform plan and controls on the budget, a ladder of relaxed budgets."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import TextColumn, TimeRemainingColumn

from pocketpipe.budget import Limits
from pocketpipe.errors import UserError, first_line
from pocketpipe.plan import CompressionPlan, Step
from pocketpipe.profile import NetworkProfile
from pocketpipe.search.proposal import (
    OverBudget,
    held_parameters,
    on_budget,
    refuse_over_budget,
    relaxed,
    tightened,
    uniform_parameters,
)
from pocketpipe.search.settings import SearchSettings
from pocketpipe.search.space import joint_space
from pocketpipe.search.store import Outcome, TrialStore, Tried
from pocketpipe.search.trial import Origin, Trial
from pocketpipe.search.tuners.base import SearchSpace, Tuner, build_tuner, next_proposal
from pocketpipe.terminal import Counting

log = logging.getLogger(__name__)

TryPlan = Callable[[CompressionPlan], Tried]
"""Carries a plan out on the teacher and scores it on the selection split: (pinned plan, metric)."""


Informed = Callable[[CompressionPlan], Sequence[Mapping[str, Any]]]
"""What weights and data suggest, given the uniform plan on the budget: parts of points of the joint space."""

AIMS = 3
"""How often a proposal is projected, each time further under the limits, if pinning takes it over them."""


def search(
    profile: NetworkProfile,
    limits: Limits,
    methods: Sequence[Step],
    try_plan: TryPlan,
    settings: SearchSettings,
    *,
    seed: int,
    store: TrialStore,
    informed: Informed | None = None,
    champion: CompressionPlan | None = None,
    higher_is_better: bool = True,
) -> list[Trial]:
    """All trials in the order in which they were made: uniform, informed, tuner, random controls, ladder, champion.

    Every plan except the ladder's keeps `limits`; methods that make no difference to what is limited stay at their
    largest in all. `champion` is a pinned plan, which is tried as it is; where that
    cannot be done on the network of today, there is a warning and no trial. The tuner knows the scores of the uniform
    and the informed plans before its first proposal; what an informed point leaves open is as in the uniform plan.
    What `store` already holds is not tried again, so a search that was killed goes on, and ends in the same trials.
    `higher_is_better` is the task's. Raises UserError if the limits are out of reach of `methods`.
    """
    parameters, held = uniform_parameters(methods, profile, limits), held_parameters(methods, profile, limits)
    space = {key: entry for key, entry in joint_space(methods, profile).items() if key not in held}
    suggest = informed if informed is not None and space else _nothing
    suggested = [{**parameters, **point} for point in suggest(on_budget(methods, parameters, profile, limits))]
    total = 1 + len(suggested) + settings.trials + settings.controls + len(settings.ladder) + (champion is not None)
    columns = (TextColumn("best {task.fields[best]}"), TimeRemainingColumn())
    with Counting("search", total, *columns, console=Console(), best="-") as bar:
        attempts = _Attempts(profile, limits, methods, try_plan, store, 1.0 if higher_is_better else -1.0, bar)
        known = [(parameters, attempts.make("uniform", parameters, limits))]
        for point in suggested:
            trial = attempts.try_to_make("informed", point, limits)
            known += [] if trial is None else [(point, trial)]
        if space:
            tuner = build_tuner(settings.tuner, settings.tuner_options, seed=seed, space=space)
            tuner.import_data(
                [
                    {"parameter": {key: point[key] for key in space}, "value": attempts.gain(trial)}
                    for point, trial in known
                ]
            )
            _ask_tuner(tuner, settings.trials, attempts, held)
            for control in range(settings.controls):
                attempts.try_to_make("random", {**held, **_random_parameters(space, seed, control)}, limits)
        for fraction in settings.ladder:
            easier = relaxed(limits, profile.as_it_is(), fraction)
            attempts.try_to_make("ladder", uniform_parameters(methods, profile, easier), easier)
        if champion is not None:
            attempts.try_champion(champion)
    return attempts.trials


def _nothing(uniform: CompressionPlan) -> Sequence[Mapping[str, Any]]:
    return ()


def _ask_tuner(tuner: Tuner, trials: int, attempts: _Attempts, held: Mapping[str, Any]) -> None:
    for proposal in range(trials):
        parameters = next_proposal(tuner, proposal)
        if parameters is None:  # a finite space is used up
            return
        trial = attempts.try_to_make("tuner", {**held, **parameters}, attempts.limits)
        if trial is not None:
            tuner.receive_trial_result(proposal, parameters, attempts.gain(trial))
        tuner.trial_end(proposal, trial is not None)


def _random_parameters(space: SearchSpace, seed: int, control: int) -> dict[str, Any]:
    """Drawn from (seed, control) alone: more trials or controls do not change the earlier ones.

    Not (seed, 0) for the first: NumPy takes that for the seed alone, from which tuners draw their first proposal.
    """
    from nni.algorithms.hpo.random_tuner import RandomTuner

    tuner = RandomTuner(seed=(seed, 1 + control))
    tuner.update_search_space(space)
    parameters: dict[str, Any] = tuner.generate_parameters(control)
    return parameters


class OutOfReach(UserError):
    """A proposal that cannot be brought under the limits."""


@dataclass
class _Attempts:
    """The trials made so far, and how to make one more."""

    profile: NetworkProfile
    limits: Limits
    methods: Sequence[Step]
    try_plan: TryPlan
    store: TrialStore
    sign: float
    bar: Counting
    trials: list[Trial] = field(default_factory=list)
    first_with: dict[str, Trial] = field(default_factory=dict)
    """The first trial of each proposal."""

    def gain(self, trial: Trial) -> float:
        """The trial's score, turned so that larger is better."""
        return self.sign * trial.score

    def try_to_make(self, origin: Origin, parameters: dict[str, Any], limits: Limits) -> Trial | None:
        """As `make`; None if the proposal cannot be brought under the limits, or, with a warning, be tried at all."""
        try:
            return self.make(origin, parameters, limits)
        except OutOfReach:
            pass
        except UserError as error:  # one that would come again whenever the search goes on
            log.warning("warning: a proposal (%s) is dropped: %s", origin, first_line(error))
        self._advance()
        return None

    def try_champion(self, plan: CompressionPlan) -> None:
        """Score a pinned plan as it is; without a trial where it cannot be carried out any more."""
        try:
            self._score("champion", plan, self.limits)
        except Exception as error:  # steps and networks are the user's, too
            log.warning("warning: the champion's plan cannot be carried out anew: %s", first_line(error))
            self._advance()

    def make(self, origin: Origin, parameters: dict[str, Any], limits: Limits) -> Trial:
        """Project, pin and score one proposal, or take over what is known of the same plan. Raises OutOfReach."""
        aim, refused = limits, ""
        for _ in range(AIMS):
            try:
                plan = on_budget(self.methods, parameters, self.profile, aim)
            except UserError as error:
                raise OutOfReach(refused or str(error)) from error
            try:
                return self._score(origin, plan, limits)
            except OverBudget as over:  # the weights, once looked at, take more than shapes alone promised
                aim, refused = tightened(aim, limits, over.cost), str(over)
        raise OutOfReach(refused)

    def _score(self, origin: Origin, plan: CompressionPlan, limits: Limits) -> Trial:
        proposal = plan.to_json()
        earlier = self.first_with.get(proposal)
        if earlier is not None:
            known = {"index": len(self.trials), "origin": origin, "same_as": earlier.index, "seconds": 0.0}
            trial = earlier.model_copy(update=known)
        else:
            trial = self._first_time(origin, proposal, plan, limits)
            self.first_with[proposal] = trial
        self.trials.append(trial)
        self._advance()
        return trial

    def _first_time(self, origin: Origin, proposal: str, plan: CompressionPlan, limits: Limits) -> Trial:
        outcome = self.store.tried(proposal)
        if outcome is None:
            outcome = self._measure(plan)
            self.store.add_tried(proposal, outcome)
        pinned = CompressionPlan.from_json(outcome.plan_json)
        refuse_over_budget(pinned, self.profile, limits)
        cost = pinned.predict(self.profile).cost()
        ratios = self.profile.as_it_is().ratio_to(cost)
        return Trial(
            index=len(self.trials),
            origin=origin,
            plan_json=outcome.plan_json,
            cost=cost,
            speedup=ratios["speedup"],
            compression=ratios["compression"],
            score=outcome.score,
            seconds=outcome.seconds,
        )

    def _measure(self, plan: CompressionPlan) -> Outcome:
        start = time.perf_counter()
        tried = self.try_plan(plan)
        if not math.isfinite(tried.score):
            raise UserError(
                f"search: trial {len(self.trials)} has the score {tried.score}; "
                "the task's metric must be a finite number for every network"
            )
        return Outcome(tried.plan.to_json(), float(tried.score), round(time.perf_counter() - start, 3))

    def _advance(self) -> None:
        to_choose_from = [self.gain(trial) for trial in self.trials if trial.origin not in ("random", "ladder")]
        self.bar.advance(best=f"{self.sign * max(to_choose_from):.4f}" if to_choose_from else "-")
