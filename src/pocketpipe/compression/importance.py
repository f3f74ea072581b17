"""How much each channel of a group matters: the criteria by which channels are chosen."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pocketpipe.compression.tracing import TracedGroup

Criterion = Literal["l1", "l2", "bn_scale", "random"]
CRITERIA: tuple[Criterion, ...] = get_args(Criterion)


def importance(network: nn.Module, group: TracedGroup, criterion: Criterion, seed: int) -> Tensor:
    """Score (channels,) of each channel of `group`; the highest are kept.

    - `l1`, `l2` (Li et al. 2017): norm of the channel's weights, summed over all axes that it is a member of: the
      filters that make it and the columns that read it, every axis at a mean of 1, so that no layer drowns another.
    - `bn_scale` (Liu et al. 2017): absolute scale of its BatchNorms, summed; `l1` for a group without one.
    - `random`: drawn from `seed` and the group's name. A control.
    """
    match criterion:
        case "l1":
            return _norms(network, group, lambda rows: rows.abs().sum(1))
        case "l2":
            return _norms(network, group, lambda rows: rows.square().sum(1).sqrt())
        case "bn_scale":
            return _batchnorm_scale(network, group)
        case "random":
            drawn = random.Random(f"{seed}/{group.name}")
            return torch.tensor([drawn.random() for _ in range(group.channels)])


def most_important(scores: Tensor, count: int) -> tuple[int, ...]:
    """Indices of the `count` highest scores, ascending; of equal ones the first.

    >>> most_important(torch.tensor([1.0, 3.0, 3.0, 2.0]), 2)
    (1, 2)
    """
    order = torch.sort(scores, descending=True, stable=True).indices
    return tuple(sorted(order[:count].tolist()))


def _norms(network: nn.Module, group: TracedGroup, norm: Callable[[Tensor], Tensor]) -> Tensor:
    """Norms of the weights (not the vectors) of each channel: (channels,)."""
    total = torch.zeros(group.channels, dtype=torch.float64)
    for tensor, dim, indices in _members(network, group):
        if tensor.dim() > 1:
            rows = norm(tensor.movedim(dim, 0).flatten(1))[indices].sum(1)
            total += rows / rows.mean().clamp_min(1e-30)
    return total


def _batchnorm_scale(network: nn.Module, group: TracedGroup) -> Tensor:
    scales = {f"{path}.weight" for path, module in network.named_modules() if isinstance(module, _BatchNorm)}
    found = [network.get_parameter(name).detach().double().cpu() for name, _ in group.places if name in scales]
    if not found:
        return importance(network, group, "l1", seed=0)
    indices = [places for (name, _), places in group.places.items() if name in scales]
    parts = [scale.abs()[places].sum(1) for scale, places in zip(found, indices, strict=True)]
    return torch.stack(parts).sum(0)


def _members(network: nn.Module, group: TracedGroup) -> Iterator[tuple[Tensor, int, Tensor]]:
    """(parameter, axis, indices (channels, positions)) of each member, on CPU in double precision."""
    parameters = dict(network.named_parameters())
    for (name, dim), indices in group.places.items():
        if name in parameters:
            yield parameters[name].detach().double().cpu(), dim, indices
