"""The Lightning module: one training step, one epoch's end. Imported only when a training runs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from math import isfinite
from typing import Any

import pytorch_lightning as lightning
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from pocketpipe.compression.during import scheduled
from pocketpipe.compression.weights import is_part_of_parametrization, parameter_name
from pocketpipe.errors import Diverged, UserError
from pocketpipe.training.average import WeightAverage
from pocketpipe.training.batches import Batch, Batches, EpochBatches, Shard, epoch_seed
from pocketpipe.training.compilation import Forward, compiled_forward
from pocketpipe.training.curves import Curves
from pocketpipe.training.features import Response, Watched
from pocketpipe.training.generators import seed_generators
from pocketpipe.training.lessons import Lessons
from pocketpipe.training.objective import Objective
from pocketpipe.training.recipe import Recipe
from pocketpipe.training.schedule import learning_rate

log = logging.getLogger(__name__)

Validate = Callable[[nn.Module], float]

LOOK = 100
"""Steps between two looks at the loss: each waits for a GPU's queue, and an epoch may take an hour."""


class Training(lightning.LightningModule):
    """A network in training.

    What a checkpoint must hold is a submodule or in `curves`; the rest follows from the epoch.
    `make_batches` is called once the device is known.
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        lessons: Lessons | None,
        recipe: Recipe,
        make_batches: Callable[[torch.device], Batches],
        validate: Validate,
        reestimate: Callable[[nn.Module], None],
        shard: Shard,
        seed: int,
        compiled: bool,
    ) -> None:
        super().__init__()
        self.network = network
        self.average = WeightAverage(network, recipe.ema) if recipe.ema is not None else None
        self.curves = Curves()
        self.objective = objective
        self._lessons = lessons
        compared = () if lessons is None else lessons.points
        read = () if objective.auxiliary is None else objective.auxiliary.points
        self._compared = len(compared)
        self._watched = Watched(network, (*compared, *read))  # after the average's copy
        self._recipe = recipe
        self._make_batches = make_batches
        self._validate = validate
        self._reestimate = reestimate
        self._shard = shard
        self._seed = seed
        self._compiled = compiled
        self._losses: list[Tensor] = []
        self._scheduled = scheduled(network)

    @property
    def result(self) -> nn.Module:
        """The network whose weights the recipe asks for."""
        return self.network if self.average is None else self.average.network

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The recipe's; weight decay on matrices and kernels only."""
        named = [*self.network.named_parameters(), *self.objective.named_parameters()]
        norms = (module for module in self.modules() if isinstance(module, NORMS))
        normalizing = {id(parameter) for norm in norms for parameter in norm.parameters()}
        names = {name for name, each in named if decays(name, each) and id(each) not in normalizing}
        decayed = [parameter for name, parameter in named if name in names]
        others = [parameter for name, parameter in named if name not in names]
        groups: list[dict[str, Any]] = [
            {"params": decayed, "weight_decay": self._recipe.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        rate, momentum = self._recipe.learning_rate, self._recipe.momentum
        # fused: one kernel for all parameters; small networks spend as long in a loop over them as in convolutions.
        if self._recipe.optimizer == "adamw":
            return torch.optim.AdamW(groups, lr=rate, betas=(momentum, 0.999), fused=True)
        optimizer = torch.optim.SGD(groups, lr=rate, momentum=momentum, nesterov=momentum > 0, fused=True)
        if momentum > 0:  # fused, it does not take a parameter whose first gradient comes later
            for parameter in (each for each in (*decayed, *others) if each.requires_grad):
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer

    def configure_gradient_clipping(self, optimizer: torch.optim.Optimizer, *_: Any, **__: Any) -> None:
        """As the recipe says. By torch itself: Lightning clips for no fused optimizer beside bf16."""
        if self._recipe.clip_norm is not None:
            parameters = (each for group in optimizer.param_groups for each in group["params"])
            torch.nn.utils.clip_grad_norm_(parameters, self._recipe.clip_norm)

    @property
    def is_compiled(self) -> bool:
        """Whether the network's forward is: not where the compiler failed."""
        return self._compiled and self._forward != self._watched.forward

    def on_fit_start(self) -> None:
        """Move data and teachers to where the network now is, and compile. Raises UserError if processes differ in the
        epoch that they go on from."""
        self._refuse_different_starts()
        self._batches = self._make_batches(self.device)
        self.objective.place_on(self.device)
        if self._lessons is not None:
            self._lessons.teachers.to(self.device)
        self._forward = self._compiled_forward() if self._compiled else self._watched.forward

    def train_dataloader(self) -> EpochBatches:
        """Asked for anew each epoch. By then the teachers have been asked about the epoch's view, if it is cached."""
        if self._lessons is not None and self._lessons.cache is not None:
            view = self._batches.view_of(self.current_epoch)
            if self._shard.rank == 0:
                with self.trainer.precision_plugin.train_step_context():
                    self._lessons.prepare(view, self._batches.view(view))
            self.trainer.strategy.barrier("taught")
        return self._batches.epoch(self.current_epoch)

    def on_train_epoch_start(self) -> None:
        """Seed what the network itself draws (dropout): a function of (seed, epoch, rank)."""
        seed_generators(epoch_seed(self._seed, self.current_epoch, stream=1 + self._shard.rank))
        self._losses = []
        self.curves.start_epoch()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Set the learning rate of this step, and tell what follows the training where it is."""
        for module in self._scheduled:
            module.at(self._progress)
        rate = learning_rate(self._recipe, self.global_step, self._batches.steps)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = rate

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of this process's part of the batch."""
        outputs, made = self._forward(self._shown(batch.inputs))
        student = Response(outputs, made[: self._compared], made[self._compared :])
        taught = None if self._lessons is None else self._lessons.on(batch, self._batches.view_of(self.current_epoch))
        loss: Tensor = self.objective(student, taught, batch.targets, self._progress)
        loss = loss + self.objective.penalty(self.network, self._progress)
        self._losses.append(loss.detach())
        return loss

    def _shown(self, inputs: Tensor) -> Tensor:
        resizing = self._recipe.progressive_resizing
        return inputs if resizing is None else resizing.shown(inputs, self._progress)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Let the average follow, and look at the loss now and then."""
        if self.average is not None:
            self.average.update(self.network, self.global_step - 1)
        if (batch_idx + 1) % LOOK == 0:
            self._refuse_divergence(self._losses[-1])

    def on_train_epoch_end(self) -> None:
        """Note the epoch's figures. Raises Diverged if the loss is no number any more."""
        loss = self._refuse_divergence(torch.stack(self._losses).mean())
        self._settle((self.current_epoch + 1) / self._recipe.epochs)
        validated = self._validate(self.result) if self._shard.rank == 0 else float("nan")
        rate = float(self.trainer.optimizers[0].param_groups[0]["lr"])
        self.curves.end_epoch(train_loss=loss, val=validated, learning_rate=rate)

    def _refuse_divergence(self, own: Tensor) -> float:
        """The mean of a loss over all processes. Raises Diverged in all of them if it is no number."""
        loss = float(self.trainer.strategy.reduce(own.clone(), reduce_op="mean"))  # in place
        if not isfinite(loss):
            raise Diverged(
                f"training diverged in epoch {self.current_epoch + 1}: the loss is {loss}; lower learning_rate "
                f"({self._recipe.learning_rate:g}) or lengthen warmup_epochs ({self._recipe.warmup_epochs:g})"
            )
        return loss

    def _refuse_different_starts(self) -> None:
        """Each process has looked for a checkpoint itself, on a file system that may not be shared."""
        own = torch.tensor(self.curves.epochs, device=self.device)
        first, last = (int(self.trainer.strategy.reduce(own.clone(), reduce_op=which)) for which in ("min", "max"))
        if first != last:
            raise UserError(
                f"the processes would go on from different epochs ({first} to {last} complete): the workspace must lie "
                "on a file system that all nodes share, and show each the same checkpoint"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the curves with the weights that they describe."""
        checkpoint["curves"] = self.curves.values

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the curves."""
        self.curves = Curves(checkpoint["curves"])

    @property
    def _progress(self) -> float:
        """Share of the training that lies behind."""
        return self.global_step / (self._recipe.epochs * self._batches.steps)

    def _settle(self, progress: float) -> None:
        """Make the result what would be delivered now: what follows the training, and the average's statistics."""
        for module in scheduled(self):
            module.at(progress)
        if self.average is not None:
            self.average.copy_others(self.network)
            together = any(isinstance(module, nn.SyncBatchNorm) for module in self.average.network.modules())
            if self._recipe.ema_statistics == "reestimated" and (self._shard.rank == 0 or together):
                self._reestimate(self.average.network)

    def _compiled_forward(self) -> Forward:
        whole = next(iter(self._batches.epoch(0))).inputs
        resizing = self._recipe.progressive_resizing
        sizes = [whole] if resizing is None else [resizing.shown(whole, 0.0), whole]
        with self.trainer.precision_plugin.train_step_context():
            return compiled_forward(self._watched, sizes)


NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay makes sense: not for biases, normalization, and what lies on weights (scales, centroids).

    >>> kernel = nn.Parameter(torch.zeros(2, 3))
    >>> decays("conv.weight", kernel), decays("conv.parametrizations.weight.original", kernel)
    (True, True)
    >>> decays("conv.parametrizations.weight.0.centroids", kernel)
    False
    >>> decays("block.scale", nn.Parameter(torch.zeros(8, 1, 1)))  # of channels
    False
    """
    is_matrix = parameter_name(name).endswith("weight") or sum(length > 1 for length in parameter.shape) > 1
    return parameter.ndim > 1 and is_matrix and not is_part_of_parametrization(name)
