"""Masks on weights, as parametrizations (see `pocketpipe.compression.weights`)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pocketpipe.compression.during import Renewed
from pocketpipe.compression.sparsity.patterns import Pattern
from pocketpipe.compression.sparsity.schedule import CubicSchedule


class Mask(nn.Module):
    """Zero where `mask` is False, whatever the weight beneath is or becomes.

    The mask is Bool and of the weight's shape: a weight average copies it instead of blending it, and slimming slices
    it with the weight. Filled, not multiplied: a product would make -0 of negative weights, which no packer takes for
    a zero.
    """

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight with zeros; no gradient flows to what is hidden."""
        return weight.masked_fill(~self.mask, 0.0)


class GradualMask(Mask, Renewed):
    """A mask that is made anew from the weights beneath while the training runs its schedule.

    As laid on, it is at its final density (`mask`): that is what the network is judged by before any training. The
    first step of a training opens it, hidden weights and all, and the schedule closes it again; weights may come back
    as long as it runs. After the last renewal the mask is final: later trainings leave it as it is.
    """

    def __init__(self, mask: Tensor, pattern: Pattern, density: float, schedule: CubicSchedule) -> None:
        super().__init__(mask)
        self.pattern, self.density, self.schedule = pattern, density, schedule

    @property
    def is_final(self) -> bool:
        """Whether its schedule has run: no later training changes it."""
        return int(self.renewed) >= self.schedule.renewals

    @torch.no_grad()
    def follow(self, progress: float, weight: Tensor) -> None:
        """Renew the mask if one is due after this share of the training. `weight` is what the mask lies on."""
        due = self.schedule.renewal(progress)
        if self.is_due(due):
            self.mask.copy_(self.pattern.mask(weight, self.schedule.density(due, self.density)))
