"""Masks on weights, as parametrizations (see `pocketpipe.compression.weights`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

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


class GradualMask(Mask):
    """A mask that is made anew from the weights beneath while the training runs its schedule.

    As laid on, it is at its final density (`mask`): that is what the network is judged by before any training. The
    first step of a training opens it, hidden weights and all, and the schedule closes it again; weights may come back
    as long as it runs. After the last renewal the mask is final: later trainings leave it as it is.
    """

    renewed: Tensor
    """Number of the latest renewal; -1 = not trained yet. Part of the state, so that a resumed training goes on."""

    def __init__(self, mask: Tensor, pattern: Pattern, density: float, schedule: CubicSchedule) -> None:
        super().__init__(mask)
        self.register_buffer("renewed", torch.tensor(-1))
        self.pattern, self.density, self.schedule = pattern, density, schedule
        self._last_asked = -1

    @property
    def is_final(self) -> bool:
        """Whether its schedule has run: no later training changes it."""
        return int(self.renewed) >= self.schedule.renewals

    @torch.no_grad()
    def follow(self, progress: float, weight: Tensor) -> None:
        """Renew the mask if one is due after this share of the training. `weight` is what the mask lies on."""
        due = self.schedule.renewal(progress)
        if due == self._last_asked:  # spares a GPU the wait for `renewed` at every step
            return
        self._last_asked = due
        if due > int(self.renewed):
            self.mask.copy_(self.pattern.mask(weight, self.schedule.density(due, self.density)))
            self.renewed.fill_(due)

    def _load_from_state_dict(self, *arguments: Any, **keywords: Any) -> None:
        super()._load_from_state_dict(*arguments, **keywords)
        self._last_asked = -1
