"""The loss that a recipe minimizes: the task's, with the teachers' share where there are some."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import assert_never

import torch
from torch import Tensor, nn

from pocketpipe.compression.distillation import corrected, decoupled_loss, distillation_loss
from pocketpipe.compression.group_sparsity import on_device, penalty
from pocketpipe.compression.tracing import Trace
from pocketpipe.errors import UserError
from pocketpipe.task import Task
from pocketpipe.training.auxiliary import AuxiliaryClassifiers
from pocketpipe.training.distilling import Decoupled, Distillation, Logits
from pocketpipe.training.features import FeatureDistance, Response
from pocketpipe.training.recipe import Recipe


class Objective(nn.Module):
    """Task loss and, if the recipe distils, the distance to teachers that see the same augmented view.

    A module, for what it learns itself (regressors of features, auxiliary classifiers) is trained and resumed with the
    network.
    """

    def __init__(
        self,
        task: Task,
        recipe: Recipe,
        features: FeatureDistance | None = None,
        trace: Trace | None = None,
        auxiliary: AuxiliaryClassifiers | None = None,
    ) -> None:
        super().__init__()
        self.features = features
        self.auxiliary = auxiliary
        self._trace = trace
        self._task = task
        self._recipe = recipe

    def forward(self, student: Response, taught: Response | None, targets: Tensor, progress: float) -> Tensor:
        """Loss of a batch, a float32 scalar, after the share `progress` of the training.

        In float32 whatever the network computes in: torch refuses some losses under autocast, and rounds in others.
        """
        with torch.autocast(student.outputs.device.type, enabled=False):
            return self._loss(student, taught, targets, progress)

    def _loss(self, student: Response, taught: Response | None, targets: Tensor, progress: float) -> Tensor:
        loss = self._with_teachers(self._of_task(student.outputs, targets), student, taught, targets, progress)
        if self.auxiliary is None:
            return loss
        theirs: Tensor = self.auxiliary(student.on_the_way, lambda outputs: self._of_task(outputs, targets))
        return loss + theirs

    def _of_task(self, outputs: Tensor, targets: Tensor) -> Tensor:
        whole = outputs.float().contiguous()  # maps lie channels last: a loss of the user's may take views
        return self._task.loss(whole, targets, smoothing=self._recipe.label_smoothing)

    def _with_teachers(
        self, loss: Tensor, student: Response, taught: Response | None, targets: Tensor, progress: float
    ) -> Tensor:
        distillation = self._recipe.distillation
        if distillation is None or taught is None:
            return loss
        if distillation.weight > 0:
            distance = outputs_distance(distillation, student.outputs.float(), taught.outputs, targets, progress)
            loss = (1 - distillation.weight) * loss + distillation.weight * distance
        if self.features is not None:
            loss = loss + self.features(student.features, taught.features)
        return loss

    def place_on(self, device: torch.device) -> None:
        """Have what is no part of its state where the network is."""
        if self._trace is not None:
            self._trace = on_device(self._trace, device)

    def penalty(self, network: nn.Module, progress: float) -> Tensor | float:
        """What group sparsity adds to the loss, a scalar; 0 if the recipe asks for none."""
        sparsity = self._recipe.group_sparsity
        if sparsity is None or self._trace is None:
            return 0.0
        return sparsity.strength * risen(progress, sparsity.grows) * penalty(network, self._trace, focus=sparsity.focus)


def outputs_distance(
    distillation: Distillation, student: Tensor, taught: Tensor, targets: Tensor, progress: float
) -> Tensor:
    """Distance of a student's logits from a teacher's, a scalar. Raises UserError for targets that it cannot use."""
    if distillation.mistakes == "corrected":
        with _for_classes("distillation.mistakes: 'corrected'", "kept"):
            taught = corrected(taught, targets)
    match distillation.outputs:
        case Logits():
            return distillation_loss(student, taught, distillation.temperature)
        case Decoupled(alpha=alpha, beta=beta, warmup=warmup):
            with _for_classes("distillation.outputs: dkd", "logits"):
                distance = decoupled_loss(student, taught, targets, distillation.temperature, alpha=alpha, beta=beta)
            return risen(progress, warmup) * distance
        case unknown:
            assert_never(unknown)


@contextmanager
def _for_classes(what: str, instead: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise UserError(f"{what} is for classification ({error}); use {instead}") from error


def risen(progress: float, share: float) -> float:
    """0 at the start, linearly up to 1 when `share` of the training is done.

    >>> risen(0.1, 0.4), risen(0.8, 0.4), risen(0.0, 0.0)
    (0.25, 1.0, 1.0)
    """
    return 1.0 if progress >= share else progress / share
