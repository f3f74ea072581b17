"""Exponential moving average of a network's weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


class WeightAverage(nn.Module):
    """A copy of a network whose weights follow it: average += (1 - decay) * (weights - average).

    The decay grows with the steps, min(decay, (1 + step) / (10 + step)), so that a short training is not held back
    by its first weights (as in TensorFlow's ExponentialMovingAverage). BatchNorm's running statistics are averaged
    by the same rule: they belong to the averaged weights more than the latest ones do. All other buffers (masks,
    indices, zero points) are copied: between two of their values lies nothing that could be delivered.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Follow `network` after training step `step` (0-based)."""
        share = 1 - min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(_averaged(self.network), _averaged(network), share)
        self.copy_others(network)

    @torch.no_grad()
    def copy_others(self, network: nn.Module) -> None:
        """Take from `network` what is not averaged."""
        for own, other in zip(_copied(self.network), _copied(network), strict=True):
            own.copy_(other)


def _averaged(network: nn.Module) -> list[Tensor]:
    return [*(each for each in network.parameters() if each.is_floating_point()), *_statistics(network)]


def _copied(network: nn.Module) -> list[Tensor]:
    averaged = {id(tensor) for tensor in _statistics(network)}
    whole = [each for each in network.parameters() if not each.is_floating_point()]
    return [*whole, *(buffer for buffer in network.buffers() if id(buffer) not in averaged)]


def _statistics(network: nn.Module) -> list[Tensor]:
    norms = [module for module in network.modules() if isinstance(module, _NormBase)]
    return [buffer for norm in norms for buffer in norm.buffers(recurse=False) if buffer.is_floating_point()]
