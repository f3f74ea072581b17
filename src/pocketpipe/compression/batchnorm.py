"""BatchNorm's statistics, measured anew: after channels are gone those of the large network no longer hold."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pocketpipe.samples import prepared_batches

if TYPE_CHECKING:
    from pocketpipe.task import Split, Task

EXAMPLES = 2048
"""Training examples from which statistics are re-estimated after a cut."""


def reestimate_on(network: nn.Module, task: Task, data: Split) -> None:
    """`reestimate` on the first `EXAMPLES` of `data`."""
    reestimate(network, prepared_batches(task, data, 256, limit=EXAMPLES))


def reestimate(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace the running statistics of `network` by their average over `batches` of prepared inputs (N, ...).

    Each batch counts the same. Modes and momenta are as before afterwards. Does nothing without BatchNorm;
    raises ValueError if there is no batch.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not norms:
        return
    device = next(network.parameters()).device
    modes = [(module, module.training) for module in network.modules()]
    momenta = [norm.momentum for norm in norms]
    seen = 0
    try:
        network.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # torch's sign for the plain average of all batches
            norm.train()
        with torch.no_grad():
            for batch in batches:
                network(batch.to(device))
                seen += 1
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, training in modes:
            module.training = training
    if not seen:
        raise ValueError("reestimate needs at least one batch: the statistics are reset")
