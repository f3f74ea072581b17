"""The training itself, in the process that calls it. Imported only when a training runs."""

from __future__ import annotations

import gc
import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch
from torch import nn

from pocketpipe.compression.batchnorm import reestimate_on
from pocketpipe.compression.modules import no_fast_attention
from pocketpipe.compression.quantization.quantizers import ActivationQuantizer
from pocketpipe.compression.tracing import Trace, trace
from pocketpipe.errors import UserError, first_line
from pocketpipe.network import StoredNetwork
from pocketpipe.quiet import quiet
from pocketpipe.task import Task
from pocketpipe.training.answers import answer_shape, has_idle_parameters
from pocketpipe.training.auxiliary import AuxiliaryClassifiers
from pocketpipe.training.batches import Batches, Shard, epoch_seed
from pocketpipe.training.device import Execution, accelerator, cpu_threads, decide, example_macs
from pocketpipe.training.distilling import Distillation
from pocketpipe.training.features import FeatureDistance, common_points, shapes_made, width
from pocketpipe.training.generators import own_generators, seed_generators
from pocketpipe.training.inference import metric_of
from pocketpipe.training.job import TrainingJob
from pocketpipe.training.layout import channels_last
from pocketpipe.training.lessons import Lessons
from pocketpipe.training.objective import Objective
from pocketpipe.training.progress import EpochProgress
from pocketpipe.training.taught import TaughtViews
from pocketpipe.training.teachers import Teachers
from pocketpipe.training.workspace import Workspace

INITIALIZATION = 2**31
"""The "epoch" whose seed draws the first weights; no training is this long."""
PATIENCE = timedelta(days=7)
"""How long processes wait for the first one, which alone asks teachers about a whole view; if one fails, all end."""


def train(job: TrainingJob, place: Workspace, progress: EpochProgress | None, shard: Shard | None = None) -> None:
    """Train to the end, from the workspace's checkpoint if there is one, and leave the result in the workspace.

    The global generators are used (initialization and dropout draw from PyTorch's, code of the user's perhaps from
    others), seeded, and put back afterwards. Raises UserError for what the GPU's memory does not hold.
    """
    shard = shard or Shard()
    on_gpu = accelerator(job.settings) == "gpu"
    gpus = [shard.rank % job.settings.devices] if on_gpu else []
    if on_gpu:
        gc.collect()  # the trainer and module of the training before know each other, so that its memory is still taken
    with own_generators(gpus), _quiet_lightning(), no_fast_attention():
        _train(job, place, progress, shard)


def _train(job: TrainingJob, place: Workspace, progress: EpochProgress | None, shard: Shard) -> None:
    from pocketpipe.training.callbacks import EpochCheckpoint, OwnSignals, ShowProgress
    from pocketpipe.training.module import Training

    task = job.task_choice.build(job.data_root)
    seed_generators(epoch_seed(job.seed, INITIALIZATION))
    network = _for_training(job.network, task)
    answer = answer_shape(network, task.input_shape)
    if job.recipe.distillation is not None:
        job.recipe.distillation.check(answer, len(task.labels), job.splits.train.targets)
    if job.recipe.progressive_resizing is not None:
        job.recipe.progressive_resizing.check(network, task.input_shape)
    if job.recipe.mixing is not None:
        job.recipe.mixing.check(task.input_shape)
    steps = job.recipe.epochs * max(1, len(job.splits.train) // job.recipe.batch_size)
    macs = example_macs(network, task.input_shape)
    rounded = any(isinstance(module, ActivationQuantizer) for module in network.modules())
    execution = decide(job.settings, macs, job.recipe.batch_size // shard.ranks, steps, rounded=rounded)

    distillation = job.recipe.distillation

    def make_batches(device: torch.device) -> Batches:
        views = distillation.cached_views if distillation is not None else None
        recipe = job.recipe
        return Batches(task, job.splits.train, recipe.batch_size, job.seed, shard, device, views, recipe.mixing)

    lessons, features = None, None
    if distillation is not None:
        lessons, features = _lessons(job, distillation, network, task, place, execution)
    auxiliary = None
    if job.recipe.auxiliary is not None:
        auxiliary = AuxiliaryClassifiers.on(network, task.input_shape, answer, job.recipe.auxiliary)
    module = Training(
        network=network,
        objective=Objective(task, job.recipe, features, _trace(job, network, task), auxiliary),
        lessons=lessons,
        recipe=job.recipe,
        make_batches=make_batches,
        validate=lambda trained: metric_of(trained, task, job.splits.val),
        reestimate=lambda trained: reestimate_on(trained, task, job.splits.train),
        shard=shard,
        seed=job.seed,
        compiled=execution.compiled,
    )
    callbacks: list[Any] = [OwnSignals(), EpochCheckpoint(place.checkpoint, place.curves)]
    if progress is not None:
        callbacks.append(ShowProgress(progress))
    idle = shard.ranks > 1 and has_idle_parameters(network, task.input_shape)
    trainer = _trainer(job, execution, shard, callbacks, idle=idle)
    try:
        with cpu_threads(execution.threads), _own_handlers():
            trainer.fit(module, ckpt_path=place.usable_checkpoint(), weights_only=True)
    except SystemExit as ended:
        if isinstance(ended.__context__, KeyboardInterrupt):  # Lightning turns Ctrl-C into an exit
            raise KeyboardInterrupt from None
        raise
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{job.title}: too large for the GPU's memory, which holds the training data and what "
            f"{job.recipe.batch_size // shard.ranks} examples make on the way ({first_line(error)[:200]}); lower "
            "batch_size, or set trainer.accelerator: cpu"
        ) from error
    if shard.rank == 0:
        module.curves.save(place.curves)  # a run that was killed behind its last checkpoint has none of that epoch
        facts = replace(execution, compiled=module.is_compiled).facts
        place.finish(job.network.with_weights(module.result), facts | {"processes": shard.ranks})


@contextmanager
def _own_handlers() -> Iterator[None]:
    """Signals belong afterwards to whom they belonged before: Lightning leaves Ctrl-C ignored once it has seen it."""
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                if handler is not None:  # set by other code than Python's
                    signal.signal(number, handler)


def _for_training(stored: StoredNetwork, task: Task) -> nn.Module:
    return channels_last(stored.build(task)).train()


def _lessons(
    job: TrainingJob,
    distillation: Distillation,
    network: nn.Module,
    task: Task,
    place: Workspace,
    execution: Execution,
) -> tuple[Lessons, FeatureDistance | None]:
    """How the student is taught, and the distance of features if the recipe asks for one."""
    networks = [channels_last(teacher.build(task)) for teacher in job.teachers]
    cache = None
    if distillation.cached_views is not None:
        cache = TaughtViews(place.taught(job.taught_digest(execution.facts)))
    points: tuple[str, ...] = ()
    features = None
    if distillation.features is not None:
        own, taught = (shapes_made(each, task.input_shape) for each in (network, networks[0]))
        points = common_points(own, taught, distillation.features.points)
        widths = [[width(shapes[point]) for point in points] for shapes in (own, taught)]
        features = FeatureDistance(distillation.features, *widths)
    return Lessons(Teachers(networks, distillation.temperature, points), points, cache), features


def _trace(job: TrainingJob, network: nn.Module, task: Task) -> Trace | None:
    return trace(network, task.input_shape) if job.recipe.group_sparsity is not None else None


def _trainer(job: TrainingJob, execution: Execution, shard: Shard, callbacks: list[Any], *, idle: bool) -> Any:
    import pytorch_lightning as lightning
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
    from pytorch_lightning.strategies import DDPStrategy

    from pocketpipe.training.callbacks import PlainFiles

    # The environment is named, not guessed: within a Slurm job or a torchrun process Lightning would guess another.
    alone = shard.ranks == 1
    backend = "nccl" if execution.accelerator == "gpu" else "gloo"
    several = DDPStrategy(process_group_backend=backend, timeout=PATIENCE, find_unused_parameters=idle)
    return lightning.Trainer(
        accelerator=execution.accelerator,
        devices=1 if alone else job.settings.devices,
        num_nodes=1 if alone else job.settings.nodes,
        strategy="auto" if alone else several,
        plugins=[LightningEnvironment() if alone else TorchElasticEnvironment(), PlainFiles()],
        precision="bf16-mixed" if execution.bf16 else "32-true",
        max_epochs=job.recipe.epochs,
        reload_dataloaders_every_n_epochs=1,
        use_distributed_sampler=False,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=True,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _quiet_lightning() -> AbstractContextManager[None]:
    """Keep Lightning's advice (more loader workers, other loggers ...) from the user: none of it applies here."""
    import pytorch_lightning  # noqa: F401  sets its loggers' levels when first imported

    loggers = ("pytorch_lightning", "lightning_fabric", "lightning")
    return quiet(loggers, warnings_of="(pytorch_lightning|lightning_fabric|torch)")
