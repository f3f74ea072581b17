"""What changes in a compressed network while it is trained: masks that grow, quantizers that settle.

A module with a method `at(progress)` is told the share of the training that lies behind it, before every step.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import nn


@runtime_checkable
class Scheduled(Protocol):
    """A module whose behaviour follows the training."""

    def at(self, progress: float) -> None:
        """Be as after this share (0..1) of the training; 1 is how it is delivered. A pure function of progress."""


def scheduled(network: nn.Module) -> tuple[Scheduled, ...]:
    """The modules of `network` that follow the training."""
    return tuple(module for module in network.modules() if isinstance(module, Scheduled))
