"""`torch.compile` that falls back to eager execution with one line, where the compiler fails."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pocketpipe.errors import first_line
from pocketpipe.training.features import Watched

log = logging.getLogger(__name__)


Forward = Callable[[Tensor], tuple[Tensor, tuple[Tensor, ...]]]
"""Inputs -> (outputs, features)."""


def compiled_forward(watched: Watched, batches: Sequence[Tensor]) -> Forward:
    """The network's forward, compiled and tried on a batch of each shape; weights, buffers and gradients are as before.

    Where compiling or the first steps fail, the uncompiled forward is returned and the reason is logged.
    """
    network, forward = watched.network, watched.forward
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    # Isolated: torch gives up at the eighth graph of the same code, which all networks of a process share here. (Its
    # overloads for type checkers lack the option.)
    compiled: Forward = torch.compile(forward, dynamic=False, isolate_recompiles=True)  # type: ignore[call-overload]
    try:
        for inputs in batches:
            outputs, _ = compiled(inputs)
            torch.autograd.backward(outputs.float().sum())
    except Exception as error:  # the compiler's failures have no common class; eager execution is always right
        log.info("torch.compile failed (%s): training runs uncompiled", first_line(error)[:200])
        return forward
    finally:
        network.load_state_dict(before)
        network.zero_grad(set_to_none=True)
    return compiled
