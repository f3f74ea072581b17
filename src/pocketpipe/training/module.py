"""The Lightning module: one training step, one epoch's end. Imported only when a training runs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytorch_lightning as lightning
import torch
from torch import Tensor, nn

from pocketpipe.compression.during import scheduled
from pocketpipe.errors import UserError
from pocketpipe.training.average import WeightAverage
from pocketpipe.training.batches import Batches, EpochBatches, Shard, epoch_seed
from pocketpipe.training.compilation import compiled_forward
from pocketpipe.training.curves import Curves
from pocketpipe.training.objective import Objective
from pocketpipe.training.recipe import Recipe
from pocketpipe.training.schedule import learning_rate

log = logging.getLogger(__name__)

Validate = Callable[[nn.Module], float]


class Training(lightning.LightningModule):
    """A network in training.

    What a checkpoint must hold is a submodule or in `curves`; the rest follows from the epoch.
    `make_batches` is called once the device is known.
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        recipe: Recipe,
        make_batches: Callable[[torch.device], Batches],
        validate: Validate,
        shard: Shard,
        seed: int,
        compiled: bool,
    ) -> None:
        super().__init__()
        self.network = network
        self.average = WeightAverage(network, recipe.ema) if recipe.ema is not None else None
        self.curves = Curves()
        self._objective = objective
        self._recipe = recipe
        self._make_batches = make_batches
        self._validate = validate
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
        """Nesterov SGD; weight decay on matrices and kernels only."""
        decayed = [p for p in self.network.parameters() if p.ndim > 1]
        others = [p for p in self.network.parameters() if p.ndim <= 1]
        groups: list[dict[str, Any]] = [
            {"params": decayed, "weight_decay": self._recipe.weight_decay},
            {"params": others},
        ]
        # fused: one kernel for all parameters; small networks spend as long in a loop over them as in convolutions.
        return torch.optim.SGD(
            [group for group in groups if group["params"]],
            lr=self._recipe.learning_rate,
            momentum=self._recipe.momentum,
            nesterov=self._recipe.momentum > 0,
            fused=True,
        )

    def on_fit_start(self) -> None:
        """Move data and teacher to where the network now is, and compile."""
        self._batches = self._make_batches(self.device)
        if self._objective.teacher is not None:
            self._objective.teacher.to(self.device)
        self._forward = self._compiled_forward() if self._compiled else self._plain_forward

    def on_train_end(self) -> None:
        """What follows the training is as delivered."""
        for module in scheduled(self.result):
            module.at(1.0)

    def train_dataloader(self) -> EpochBatches:
        """Asked for anew each epoch."""
        return self._batches.epoch(self.current_epoch)

    def on_train_epoch_start(self) -> None:
        """Seed what the network itself draws (dropout): a function of (seed, epoch, rank)."""
        torch.manual_seed(epoch_seed(self._seed, self.current_epoch, stream=1 + self._shard.rank))
        self._losses = []
        self.curves.start_epoch()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Set the learning rate of this step, and tell what follows the training where it is."""
        for module in self._scheduled:
            module.at(self.global_step / (self._recipe.epochs * self._batches.steps))
        rate = learning_rate(self._recipe, self.global_step, self._batches.steps)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = rate

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Loss of this process's part of the batch."""
        inputs, targets = batch
        loss = self._objective(self._forward(inputs), inputs, targets)
        self._losses.append(loss.detach())
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Let the average follow."""
        if self.average is not None:
            self.average.update(self.network, self.global_step - 1)

    def on_train_epoch_end(self) -> None:
        """Note the epoch's figures. Raises UserError if the loss is no number any more."""
        loss = float(self.trainer.strategy.reduce(torch.stack(self._losses).mean(), reduce_op="mean"))
        epoch = self.current_epoch
        if not torch.isfinite(torch.tensor(loss)):
            raise UserError(
                f"training diverged in epoch {epoch + 1}: the loss is {loss}; lower learning_rate "
                f"({self._recipe.learning_rate:g}) or lengthen warmup_epochs ({self._recipe.warmup_epochs:g})"
            )
        validated = self._validate(self.result) if self._shard.rank == 0 else float("nan")
        rate = float(self.trainer.optimizers[0].param_groups[0]["lr"])
        self.curves.end_epoch(train_loss=loss, val=validated, learning_rate=rate)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the curves with the weights that they describe."""
        checkpoint["curves"] = self.curves.values

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the curves."""
        self.curves = Curves(checkpoint["curves"])

    def _compiled_forward(self) -> Callable[[Tensor], Tensor]:
        inputs, _ = next(iter(self._batches.epoch(0)))
        with self.trainer.precision_plugin.train_step_context():
            return compiled_forward(self.network, inputs)

    def _plain_forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.network(inputs)
        return outputs
