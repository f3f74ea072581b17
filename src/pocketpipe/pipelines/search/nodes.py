"""Find the plan: try proposals on the teacher, give the best a short fine-tuning, take the winner of that."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from pocketpipe.budget import Budget, Limits
from pocketpipe.champion import Champion
from pocketpipe.errors import Diverged, UserError, first_line
from pocketpipe.network import StoredNetwork
from pocketpipe.plan import CompressionPlan, MethodChoice, Step
from pocketpipe.profile import NetworkProfile
from pocketpipe.record import StageRecord
from pocketpipe.reporting.numbers import metric_text
from pocketpipe.search.finalists import Choice, choose, finalists_of
from pocketpipe.search.proposal import on_budget, uniform_parameters
from pocketpipe.search.run import search
from pocketpipe.search.settings import SearchSettings
from pocketpipe.search.space import joint_parameters, joint_space
from pocketpipe.search.store import TrialStore, Tried
from pocketpipe.search.trial import Trial
from pocketpipe.task import Split, Splits, Task, TaskChoice
from pocketpipe.training.device import computed, cpu_threads, threads_for
from pocketpipe.training.fit import fit
from pocketpipe.training.inference import metric_of, score_of
from pocketpipe.training.recipe import Recipe, TrainerSettings
from pocketpipe.training.workspace import forget_taught

log = logging.getLogger(__name__)

T = TypeVar("T")
Found = tuple[CompressionPlan, StoredNetwork, list[Trial], StageRecord]


@dataclass(frozen=True)
class _Kept:
    """A champion whose plan may be kept."""

    of: Champion
    score: float
    """Of its student on the selection split."""
    doubts: tuple[str, ...]


def find_plan(
    task_choice: TaskChoice,
    budget: Budget,
    methods: list[Any],
    settings: SearchSettings,
    short_recipe: Recipe,
    trainer: TrainerSettings,
    seed: int,
    teacher: StoredNetwork,
    start: StoredNetwork,
    profile: NetworkProfile,
    splits: Splits,
    data_root: Path,
    workspace: Path,
    champion: Champion | None = None,
) -> Found:
    """(plan, the network it starts fine-tuning from, all trials, record).

    Plans are carried out on `start`; `teacher` is the yardstick, and taught by in the short fine-tunings.
    With a champion of the same methods and options its plan is tried first, on its own weights; the search runs only if
    that fails the budget, or leaves much of it unused. Then its plan is a finalist beside those that are found.
    """
    task = task_choice.build(data_root)
    dense = profile.as_it_is()
    limits = budget.limits(dense)

    def tune(cut: StoredNetwork, name: str) -> float:
        try:
            fitted = fit(
                cut, task_choice, data_root, splits, short_recipe, trainer,
                seed=seed, workspace=workspace / name, teacher=teacher, shared=workspace, title=name,
            )  # fmt: skip
        except Diverged as error:
            raise Diverged(f"finalists: {error}") from error
        return score_of(fitted.network, task, splits.selection, trainer)

    dense_score = score_of(teacher, task, splits.selection, trainer)
    steps = [method.step() for method in MethodChoice.all_of(methods)]
    enough = partial(budget.allows_metric, dense=dense_score, higher_is_better=task.higher_is_better)
    kept: _Kept | None = None
    if champion is not None and _asks_for(steps, champion.plan) and _keeps(champion, task, profile, limits):
        score = score_of(champion.student, task, splits.selection, trainer)
        kept = _Kept(champion, *_champions_score(champion, score, task, enough, tune))

    def keep(champions: _Kept, trials: list[Trial], facts: dict[str, Any], *doubts: str) -> Found:
        forget_taught(workspace)
        lines, metrics = (*champions.doubts, *doubts), {"score": champions.score}
        cut_anew = next((trial.index for trial in trials if trial.origin == "champion"), None)
        facts = facts if cut_anew is None else {**facts, "missed": cut_anew}
        record = _record(task, splits, trials, dense_score, facts, metrics, lines)
        return champions.of.plan, champions.of.student, trials, record

    if kept is not None and enough(kept.score) and _uses(kept.of.plan, steps, profile, limits):
        return keep(kept, [], {"plan": "the champion's, kept"})

    network = start.build(task)  # once: traces and losses without blocks are remembered with the module
    try_plan, slim = _trial_functions(start, network, task, splits, trainer)
    store = TrialStore(workspace / _of_these(start, teacher, splits.selection))
    with cpu_threads(threads_for(dense.macs * short_recipe.batch_size)):
        trials = search(
            profile,
            limits,
            steps,
            try_plan,
            settings,
            seed=seed,
            store=store,
            informed=lambda uniform: computed(
                trainer, network, lambda there: _informed(steps, there, task, splits.train, profile, uniform)
            ),
            champion=None if kept is None else kept.of.plan,
            higher_is_better=task.higher_is_better,
        )
    finalists = finalists_of(trials, settings.finalists, higher_is_better=task.higher_is_better)
    try:
        if kept is None and len(finalists) == 1:  # a short fine-tuning would have nothing to tell it from
            choice = Choice(finalists[0], trials)
        else:
            choice = choose(
                trials,
                lambda trial: tune(slim(trial.plan), f"finalist {trial.index}"),
                count=settings.finalists,
                store=store,
                higher_is_better=task.higher_is_better,
            )
    except Diverged as error:
        if kept is None or not enough(kept.score):
            raise
        return keep(kept, trials, {"plan": "the champion's, as all finalists diverged"}, *str(error).splitlines())
    winner = choice.winner
    if kept is not None and enough(kept.score) and not enough(winner.last_score):
        why = {"plan": "the champion's, as no finalist keeps the budget"}
        return keep(kept, choice.trials, why, *choice.dropped)
    facts: dict[str, Any] = {"plan": f"trial {winner.index} ({winner.origin})", "winner": winner.index}
    # Its plan cut anew is no better a start than its student, which is trained already; but for one that training lost.
    if kept is not None and winner.origin == "champion" and enough(kept.score):
        return keep(kept, choice.trials, facts, *choice.dropped)
    forget_taught(workspace)
    doubts = () if kept is None else kept.doubts
    metrics = {"score": winner.score} | ({} if winner.tuned_score is None else {"tuned_score": winner.tuned_score})
    record = _record(task, splits, choice.trials, dense_score, facts, metrics, (*doubts, *choice.dropped))
    return winner.plan, slim(winner.plan), choice.trials, record


def _of_these(start: StoredNetwork, teacher: StoredNetwork, selection: Split) -> str:
    """Name of the folder of what was tried: a training made again has other weights, and other scores."""
    parts = (start.digest(), teacher.digest(), selection.digest)
    return f"trials-{hashlib.sha256(''.join(parts).encode()).hexdigest()[:16]}"


def _champions_score(
    champion: Champion,
    score: float,
    task: Task,
    enough: Callable[[float], bool],
    tune: Callable[[StoredNetwork, str], float],
) -> tuple[float, tuple[str, ...]]:
    """(`score` of the champion's student, after a short fine-tuning where it is not enough and that helps; doubts)."""
    if enough(score):
        return score, ()
    try:
        tuned = tune(champion.student, "champion's plan")
    except Diverged as error:
        return score, (f"the champion's student was not tuned: {error}",)
    return (max if task.higher_is_better else min)(score, tuned), ()


def _trial_functions(
    start: StoredNetwork, dense: nn.Module, task: Task, splits: Splits, trainer: TrainerSettings
) -> tuple[Callable[[CompressionPlan], Tried], Callable[[CompressionPlan], StoredNetwork]]:
    """(plan -> pinned plan and score, plan -> the network that it makes of `start`, of which `dense` is built)."""

    def carried_out(plan: CompressionPlan, use: Callable[[nn.Module, CompressionPlan], T]) -> T:
        def compute(there: nn.Module) -> T:
            network, pinned = plan.carry_out(there, task, splits.train)
            return use(network.eval(), pinned)

        return computed(trainer, dense, compute)

    def tried(network: nn.Module, pinned: CompressionPlan) -> Tried:
        return Tried(plan=pinned, score=metric_of(network, task, splits.selection))

    def stored(network: nn.Module, pinned: CompressionPlan) -> StoredNetwork:
        return replace(start, plan=pinned).with_weights(network)

    return partial(carried_out, use=tried), partial(carried_out, use=stored)


def _informed(
    steps: Sequence[Step],
    network: nn.Module,
    task: Task,
    data: Split,
    profile: NetworkProfile,
    uniform: CompressionPlan,
) -> list[dict[str, Any]]:
    """What weights suggest for the first step, which meets the network as it is, at the uniform plan's share.

    The first that has a choice: one without (of the user's, say) may come before, if it leaves the layers as they are.
    """
    choosing = (place for place, step in enumerate(steps) if joint_space([step], profile))
    place = next(choosing, 0)
    if any(step.predict(profile).layers != profile.layers for step in uniform.steps[:place]):
        place = 0
    step, dense, after = steps[place], profile.cost(), uniform.steps[place].predict(profile).cost()
    share = Limits(macs=after.macs) if after.macs < dense.macs else Limits(file_bytes=after.file_bytes)
    try:
        return [joint_parameters(point, step.kind) for point in step.informed(network, task, data, profile, share)]
    except UserError as error:
        log.info("search: no plan from the weights of %s: %s", step.kind, error)
        return []


def _asks_for(methods: Sequence[Step], plan: CompressionPlan) -> bool:
    """Whether the plan is one that these methods, with what the user says of them, could have led to."""
    pairs = zip(methods, plan.steps, strict=False)
    return len(methods) == len(plan.steps) and all(method.asks_for(step) for method, step in pairs)


def _keeps(champion: Champion, task: Task, profile: NetworkProfile, limits: Limits) -> bool:
    """Whether the champion's plan still fits the network, whose code may have changed, and keeps the limits."""
    try:
        champion.student.build(task)
        return limits.keeps(champion.plan.predict(profile).cost())
    except Exception as error:  # steps and networks are the user's, too
        log.warning("warning: the champion's plan does not fit the network as it is now: %s", first_line(error))
        return False


MOSTLY = 0.9
"""Of what a uniform plan uses of the budget, the share that a champion's must use to be kept without a search: of a
budget that was relaxed since, the network is to have what it can."""


def _uses(plan: CompressionPlan, steps: Sequence[Step], profile: NetworkProfile, limits: Limits) -> bool:
    """Whether the plan uses about as much of the limits as these steps can."""
    uniform = on_budget(steps, uniform_parameters(steps, profile, limits), profile, limits)
    used, usual = (limits.usage(each.predict(profile).cost()) for each in (plan, uniform))
    return used >= MOSTLY * usual


def _record(
    task: Task,
    splits: Splits,
    trials: list[Trial],
    dense_score: float,
    facts: dict[str, Any],
    metrics: dict[str, float],
    warnings: tuple[str, ...] = (),
) -> StageRecord:
    scores = [trial.score for trial in trials if trial.origin not in ("random", "ladder")]  # these are never chosen
    best = accumulate(scores, max if task.higher_is_better else min)
    score = metric_text(metrics.get("tuned_score", metrics["score"]))
    kept = f"{score} {task.metric_name} (teacher {metric_text(dense_score)})"
    return StageRecord(
        stage="search",
        headline=f"{len(trials)} trials; plan: {facts['plan']}, {kept}",
        metrics={"trials": len(trials), f"dense_{task.metric_name}": dense_score, **metrics},
        curves={"trial_score": tuple(scores), "best_score": tuple(best)},
        facts=facts,
        warnings=warnings,
        data=splits.selection.name,
    )
