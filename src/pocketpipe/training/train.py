"""The training itself, in the process that calls it. Imported only when a training runs."""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

import torch
from torch import nn

from pocketpipe.compression.batchnorm import reestimate_on
from pocketpipe.compression.modules import no_fast_attention
from pocketpipe.compression.quantization.quantizers import ActivationQuantizer
from pocketpipe.compression.tracing import Trace, trace
from pocketpipe.network import StoredNetwork
from pocketpipe.quiet import quiet
from pocketpipe.task import Task
from pocketpipe.training.answers import answer_shape, has_idle_parameters
from pocketpipe.training.batches import Batches, Shard, epoch_seed
from pocketpipe.training.device import Execution, cpu_threads, decide, example_macs
from pocketpipe.training.distilling import Distillation
from pocketpipe.training.features import FeatureDistance, common_points, shapes_made, width
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

    PyTorch's global generator is used (initialization and dropout draw from it), seeded, and put back afterwards.
    """
    shard = shard or Shard()
    with torch.random.fork_rng(), _quiet_lightning(), no_fast_attention():
        _train(job, place, progress, shard)


def _train(job: TrainingJob, place: Workspace, progress: EpochProgress | None, shard: Shard) -> None:
    from pocketpipe.training.callbacks import EpochCheckpoint, OwnSignals, ShowProgress
    from pocketpipe.training.module import Training

    task = job.task_choice.build(job.data_root)
    torch.manual_seed(epoch_seed(job.seed, INITIALIZATION))
    network = _for_training(job.network, task)
    answer = answer_shape(network, task.input_shape)
    if job.recipe.distillation is not None:
        job.recipe.distillation.check(answer, len(task.labels), job.splits.train.targets)
    if job.recipe.progressive_resizing is not None:
        job.recipe.progressive_resizing.check(network, task.input_shape)
    steps = job.recipe.epochs * max(1, len(job.splits.train) // job.recipe.batch_size)
    macs = example_macs(network, task.input_shape)
    rounded = any(isinstance(module, ActivationQuantizer) for module in network.modules())
    execution = decide(job.settings, macs, job.recipe.batch_size // shard.ranks, steps, rounded=rounded)

    distillation = job.recipe.distillation

    def make_batches(device: torch.device) -> Batches:
        views = distillation.cached_views if distillation is not None else None
        return Batches(task, job.splits.train, job.recipe.batch_size, job.seed, shard, device, views)

    lessons, features = None, None
    if distillation is not None:
        lessons, features = _lessons(job, distillation, network, task, place, execution)
    module = Training(
        network=network,
        objective=Objective(task, job.recipe, features, _trace(job, network, task)),
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
        with cpu_threads(execution.threads):
            trainer.fit(module, ckpt_path=place.usable_checkpoint(), weights_only=True)
    except SystemExit as ended:
        if isinstance(ended.__context__, KeyboardInterrupt):  # Lightning turns Ctrl-C into an exit
            raise KeyboardInterrupt from None
        raise
    if shard.rank == 0:
        module.curves.save(place.curves)  # a run that was killed behind its last checkpoint has none of that epoch
        place.finish(job.network.with_weights(module.result), execution.facts | {"processes": shard.ranks})


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

    # The environment is named, not guessed: within a Slurm job or a torchrun process Lightning would guess another.
    alone = shard.ranks == 1
    backend = "nccl" if execution.accelerator == "gpu" else "gloo"
    several = DDPStrategy(process_group_backend=backend, timeout=PATIENCE, find_unused_parameters=idle)
    return lightning.Trainer(
        accelerator=execution.accelerator,
        devices=1 if alone else job.settings.devices,
        num_nodes=1 if alone else job.settings.nodes,
        strategy="auto" if alone else several,
        plugins=[LightningEnvironment() if alone else TorchElasticEnvironment()],
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
