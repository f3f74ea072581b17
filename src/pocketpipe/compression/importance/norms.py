"""Criteria that read weights alone: norms of a channel's weights, scales of its BatchNorms, and none at all."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pocketpipe.compression.members import Member, members, value_of
from pocketpipe.compression.tracing import TracedGroup

Norm = Callable[[Tensor], Tensor]
"""(rows, elements) -> (rows,)"""


def l1(network: nn.Module, group: TracedGroup) -> Tensor:
    """Sum of the absolute weights of each channel (Li et al. 2017): (channels,); see `_norms`."""
    return _norms(network, group, lambda rows: rows.abs().sum(1))


def l2(network: nn.Module, group: TracedGroup) -> Tensor:
    """Euclidean norm of each channel's weights: (channels,); see `_norms`."""
    return _norms(network, group, lambda rows: rows.square().sum(1).sqrt())


def batchnorm_scale(network: nn.Module, group: TracedGroup) -> Tensor:
    """Absolute scales of each channel's BatchNorms, summed (Liu et al. 2017): (channels,); l1 without BatchNorm."""
    scales = {f"{path}.weight" for path, module in network.named_modules() if isinstance(module, _BatchNorm)}
    parts = [
        value_of(network, member.name).abs()[member.indices].sum(1)
        for member in members(network, group)
        if member.name in scales
    ]
    return torch.stack(parts).sum(0) if parts else l1(network, group)


def drawn(group: TracedGroup, seed: int) -> Tensor:
    """Drawn from `seed` and the group's name: (channels,)."""
    source = random.Random(f"{seed}/{group.name}")
    return torch.tensor([source.random() for _ in range(group.channels)], dtype=torch.float64)


def rows_of(network: nn.Module, member: Member) -> Tensor:
    """The member's weights as a matrix (length of its axis, everything else)."""
    return value_of(network, member.name).movedim(member.dim, 0).flatten(1)


def _norms(network: nn.Module, group: TracedGroup, norm: Norm) -> Tensor:
    """Norms summed over the axes of all weights (not vectors), each at a mean of 1, so that no layer drowns another."""
    total = torch.zeros(group.channels, dtype=torch.float64)
    for member in members(network, group):
        if member.role != "scales":
            rows = norm(rows_of(network, member))[member.indices].sum(1)
            total += rows / rows.mean().clamp_min(1e-30)
    return total
