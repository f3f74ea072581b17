"""What changes in a compressed network while it is trained: masks that grow, quantizers that settle.

A module with a method `at(progress)` is told the share of the training that lies behind it, before every step.
One that lies on a weight and depends on it has `follow(progress, weight)` instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList


@runtime_checkable
class Scheduled(Protocol):
    """Something whose behaviour follows the training."""

    def at(self, progress: float) -> None:
        """Be as after this share (0..1) of the training; 1 is how it is delivered. Asked again, nothing changes."""


@runtime_checkable
class ScheduledOnWeight(Protocol):
    """A parametrization whose behaviour follows the training and the weight that it lies on."""

    def follow(self, progress: float, weight: Tensor) -> None:
        """As `Scheduled.at`; `weight` is what the parametrization gets to see. What it must remember is a buffer."""


class Renewed(nn.Module):
    """Something that is made anew a number of times while a training runs its schedule, and then never again."""

    renewed: Tensor
    """Number of the latest renewal; -1 = not trained yet. Part of the state, so that a resumed training goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("renewed", torch.tensor(-1))
        self._last_asked = -1

    def is_due(self, number: int) -> bool:
        """Whether renewal `number` is still to be made; it counts as made from then on."""
        if number == self._last_asked:  # spares a GPU the wait for `renewed` at every step
            return False
        self._last_asked = number
        if number <= int(self.renewed):
            return False
        self.renewed.fill_(number)
        return True

    def _load_from_state_dict(self, *arguments: Any, **keywords: Any) -> None:
        super()._load_from_state_dict(*arguments, **keywords)
        self._last_asked = -1


def scheduled(network: nn.Module) -> tuple[Scheduled, ...]:
    """All in `network` that follows the training. They look the weights up when they are told."""
    found: list[Scheduled] = []
    for module in network.modules():
        if isinstance(module, Scheduled):
            found.append(module)
        elif isinstance(module, ParametrizationList):
            found += [OnWeight(module, i) for i, entry in enumerate(module) if isinstance(entry, ScheduledOnWeight)]
    return tuple(found)


@dataclass(frozen=True)
class OnWeight:
    """A parametrization that follows its weight, by its place on it.

    Not the parametrization itself: it does not know what it lies on, and a reference to the weight would go stale when
    the network is copied or slimmed.
    """

    on: ParametrizationList
    position: int

    @torch.no_grad()
    def at(self, progress: float) -> None:
        """Tell it, with the weight as those before it make it."""
        weight: Tensor = self.on.original
        for earlier in list(self.on)[: self.position]:
            weight = earlier(weight)
        follower = self.on[self.position]
        assert isinstance(follower, ScheduledOnWeight)
        follower.follow(progress, weight)
