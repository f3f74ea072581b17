"""Train a network: the one entry. Resumable each epoch; in this process, or in several that are started for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

import torch

from pocketpipe.errors import Diverged, UserError
from pocketpipe.network import StoredNetwork
from pocketpipe.networks.weights import with_weights_of
from pocketpipe.storage import remove_whole
from pocketpipe.task import Splits, Task, TaskChoice
from pocketpipe.training.curves import Curves
from pocketpipe.training.job import TrainingJob
from pocketpipe.training.progress import EpochProgress
from pocketpipe.training.recipe import Recipe, TrainerSettings
from pocketpipe.training.workspace import Workspace
from pocketpipe.workers.process import WorkerError, first_error, run_worker, write_spec

RANK_FUNCTION = "pocketpipe.training.rank:train_rank"


@dataclass(frozen=True)
class Fitted:
    """A trained network and how it came about."""

    network: StoredNetwork
    curves: dict[str, tuple[float, ...]]
    """By epoch: train_loss, val_<metric>, learning_rate, seconds."""
    facts: dict[str, Any] = field(default_factory=dict)


def fit(
    network: StoredNetwork,
    task_choice: TaskChoice,
    data_root: Path,
    splits: Splits,
    recipe: Recipe,
    settings: TrainerSettings,
    *,
    seed: int,
    workspace: Path,
    teacher: StoredNetwork | None = None,
    shared: Path | None = None,
    title: str,
) -> Fitted:
    """Train `network` (from random weights if it has none) on `splits.train`; the last epoch's weights are the result.

    `workspace` holds a checkpoint of each epoch: called again after an interruption, the training goes on, and on a CPU
    with the same number of threads ends in the same bytes; called again when finished, it returns at once. It belongs
    to one training: what another one left there is removed. `teacher` is learned from if the recipe distils, beside
    those that it names itself.
    `shared`: a folder for what several trainings use (cached outputs of teachers); the caller removes it.
    Raises Diverged if the loss does; UserError if a process dies, weights cannot be read, or settings cannot be had.
    """
    task = task_choice.build(data_root)
    teachers = (*([teacher] if teacher is not None else []), *further_teachers(recipe, data_root, task))
    job = TrainingJob(network, task_choice, data_root, splits, recipe, settings, seed, title, teachers)
    place = Workspace(workspace, shared)
    place.open_for(job.digest())
    finished = place.result()
    if finished is None:
        with EpochProgress(title, recipe.epochs, task.metric_name) as progress:
            if settings.ranks == 1:
                from pocketpipe.training.train import train

                train(job, place, progress)
            else:
                _train_in_processes(job, place, progress)
        finished = place.result()
    if finished is None:
        raise UserError(f"{title}: the training ended without a result; its logs are in {place.ranks}")
    place.discard_inputs()
    trained, curves, facts = finished
    return Fitted(trained, {_curve_name(name, task.metric_name): tuple(v) for name, v in curves.values.items()}, facts)


def further_teachers(recipe: Recipe, data_root: Path, task: Task) -> tuple[StoredNetwork, ...]:
    """The teachers that a recipe names beside the pipeline's own. Raises UserError for weights that cannot be read."""
    named = recipe.distillation.teachers if recipe.distillation is not None else ()
    return tuple(with_weights_of(choice.path(data_root), choice.fresh(), task) for choice in named)


def _curve_name(name: str, metric: str) -> str:
    return f"val_{metric}" if name == "val" else name


def _train_in_processes(job: TrainingJob, place: Workspace, progress: EpochProgress) -> None:
    if job.settings.nodes > 1:
        _refuse_failed(place)
    job.save(place.inputs)
    spec = {"workspace": str(place.folder.absolute())}
    if place.shared is not None:
        spec["shared"] = str(place.shared.absolute())
    if job.settings.nodes > 1:
        raise UserError(_torchrun_advice(job.settings, place, spec))
    try:
        run_worker(
            RANK_FUNCTION,
            spec,
            place.ranks,
            processes=job.settings.devices,
            environment={"OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // job.settings.devices))},
            while_waiting=lambda: progress.tell(Curves.load(place.curves)),
        )
    except WorkerError as error:
        raise (Diverged(str(error)) if error.kind == Diverged.__name__ else error) from None


def _refuse_failed(place: Workspace) -> None:
    """Raises what processes on several nodes ended with: Diverged each time that it is asked, so that those that it is
    compared with get their turn; any other error once."""
    error = first_error(place.ranks)
    if error is None:
        return
    if error.kind == Diverged.__name__:
        raise Diverged(f"{error} (to train it again as it is, delete {place.ranks})")
    remove_whole(place.ranks)
    raise UserError(f"{error}; mend that, then run this again for the torchrun line")


def _torchrun_advice(settings: TrainerSettings, place: Workspace, spec: dict[str, str]) -> str:
    file = write_spec(spec, place.ranks)
    return (
        f"trainer.nodes: {settings.nodes} nodes are started from outside. On every node (the workspace on a shared "
        f"file system) run: torchrun --nnodes {settings.nodes} --nproc-per-node {settings.devices} "
        f"--rdzv-backend c10d --rdzv-endpoint HOST:PORT -m pocketpipe.workers {RANK_FUNCTION} {quote(str(file))} "
        f"{quote(str(place.ranks.absolute() / 'result-{rank}.json'))}; then run this again: it takes the result"
    )
