"""The loss that a recipe minimizes: the task's, with a teacher's share where there is one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pocketpipe.compression.distillation import distillation_loss
from pocketpipe.task import Task
from pocketpipe.training.recipe import Recipe


@dataclass(frozen=True)
class Objective:
    """Task loss and, if the recipe distils, the distance to a frozen teacher that sees the same augmented view."""

    task: Task
    recipe: Recipe
    teacher: nn.Module | None = None

    def __call__(self, outputs: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        """Loss of a batch, a float32 scalar."""
        loss = self.task.loss(outputs.float(), targets, smoothing=self.recipe.label_smoothing)
        distillation = self.recipe.distillation
        if distillation is None or self.teacher is None:
            return loss
        with torch.no_grad():
            taught = self.teacher(inputs).float()
        distance = distillation_loss(outputs.float(), taught, distillation.temperature)
        mixed: Tensor = (1 - distillation.weight) * loss + distillation.weight * distance
        return mixed
