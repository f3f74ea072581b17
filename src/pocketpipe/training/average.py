"""Exponential moving average of a network's weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class WeightAverage(nn.Module):
    """A copy of a network whose weights follow it: average += (1 - decay) * (weights - average).

    The decay grows with the steps, min(decay, (1 + step) / (10 + step)), so that a short training is not held back
    by its first weights (as in TensorFlow's ExponentialMovingAverage). BatchNorm's running statistics are averaged
    by the same rule: they belong to the averaged weights more than the latest ones do.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Follow `network` after training step `step` (0-based)."""
        share = 1 - min(self._decay, (1 + step) / (10 + step))
        averaged: list[Tensor] = []
        latest: list[Tensor] = []
        for own, other in zip(self.network.state_dict().values(), network.state_dict().values(), strict=True):
            if own.is_floating_point():
                averaged.append(own)
                latest.append(other)
            else:
                own.copy_(other)
        torch._foreach_lerp_(averaged, latest, share)
