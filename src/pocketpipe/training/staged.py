"""Carry a plan out in stages, training in between: staged pruning, and PocketFlow's group fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, assert_never

from torch import nn

from pocketpipe.errors import UserError
from pocketpipe.network import StoredNetwork
from pocketpipe.plan import CompressionPlan, Step
from pocketpipe.profile import NetworkProfile
from pocketpipe.task import Splits, Task, TaskChoice
from pocketpipe.training.device import computed
from pocketpipe.training.fit import Fitted, fit
from pocketpipe.training.recipe import ByLayers, ByPortions, FinetuneRecipe, Stages, TrainerSettings
from pocketpipe.training.workspace import forget_taught


def fit_in_stages(
    start: StoredNetwork,
    plan: CompressionPlan,
    profile: NetworkProfile,
    stages: Stages,
    task_choice: TaskChoice,
    data_root: Path,
    splits: Splits,
    recipe: FinetuneRecipe,
    settings: TrainerSettings,
    *,
    seed: int,
    workspace: Path,
    teacher: StoredNetwork | None = None,
    title: str,
) -> Fitted:
    """Carry `plan` out on `start` cut by cut, a short training after each but the last, then train as `recipe` says.

    Each cut is chosen by the weights that the training before it left. `profile` is that of `start`. The result's plan
    holds the steps that were really carried out; its predicted cost is that of `plan`, reopened. `workspace` has a
    folder for each training: called again after an interruption, finished ones return at once and the unfinished one
    goes on.
    `facts["stages"]` tells the metric on val after each short training. Raises as `fit`, and UserError if the cuts of a
    step do not lead to what the step promises.
    """
    task = task_choice.build(data_root)
    cuts, val = _cuts(plan, profile, stages), f"val_{task.metric_name}"
    network = start
    told: list[dict[str, Any]] = []
    for number, cut in enumerate(cuts, start=1):
        network = carried_out(network, cut, task, splits, settings)
        if number == len(cuts):
            break
        between = fit(
            network, task_choice, data_root, splits, recipe.between_stages(stages), settings,
            seed=seed, workspace=workspace / f"stage-{number}", teacher=teacher, shared=workspace,
            title=f"{title}, stage {number} of {len(cuts)}",
        )  # fmt: skip
        network = between.network
        told.append({"cut": cut.kind, val: between.curves[val][-1]})
    fitted = fit(
        network, task_choice, data_root, splits, recipe.plain, settings,
        seed=seed, workspace=workspace / "whole", teacher=teacher, shared=workspace, title=title,
    )  # fmt: skip
    forget_taught(workspace)
    return replace(fitted, facts=fitted.facts | {"stages": told})


def carried_out(
    network: StoredNetwork, step: Step, task: Task, splits: Splits, settings: TrainerSettings
) -> StoredNetwork:
    """`network` after one more step, pinned and calibrated on its own weights and the training split."""

    def compute(built: nn.Module) -> StoredNetwork:
        cut, pinned = CompressionPlan((step,)).carry_out(built, task, splits.train)
        return replace(network, plan=CompressionPlan((*network.plan.steps, *pinned.steps))).with_weights(cut)

    return computed(settings, network.build(task), compute)


def _cuts(plan: CompressionPlan, profile: NetworkProfile, stages: Stages) -> tuple[Step, ...]:
    """The steps that lead to `plan`, one after the other."""
    return tuple(cut for step, before in _steps_with_profiles(plan, profile) for cut in _parts(step, before, stages))


def _steps_with_profiles(plan: CompressionPlan, profile: NetworkProfile) -> Iterator[tuple[Step, NetworkProfile]]:
    for step in plan.steps:
        yield step, profile
        profile = step.predict(profile)


def _parts(step: Step, profile: NetworkProfile, stages: Stages) -> tuple[Step, ...]:
    match stages:
        case ByPortions(count=count):
            parts = step.in_portions(profile, count)
        case ByLayers(every=every):
            parts = step.by_layers(profile, every)
        case unknown:
            assert_never(unknown)
    whole = step if parts == (step,) else step.reopened(profile)
    if CompressionPlan(parts).predict(profile).cost() != whole.predict(profile).cost():
        raise UserError(f"plan: the parts of step {step.kind} do not lead to the cost of the whole; set stages to null")
    return parts
