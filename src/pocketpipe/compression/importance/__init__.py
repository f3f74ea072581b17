"""How much each channel of a group matters: the criteria by which channels are chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from pocketpipe.compression.importance.discrimination import by_discrimination
from pocketpipe.compression.importance.geometry import distances
from pocketpipe.compression.importance.gradients import taylor
from pocketpipe.compression.importance.lasso import by_lasso
from pocketpipe.compression.importance.norms import batchnorm_scale, drawn, l1, l2
from pocketpipe.compression.modules import device_of
from pocketpipe.compression.sampling import calibration
from pocketpipe.compression.tracing import TracedGroup
from pocketpipe.task import Split, Task

Criterion = Literal["l1", "l2", "bn_scale", "fpgm", "taylor", "lasso", "dcp", "random"]
CRITERIA: tuple[Criterion, ...] = get_args(Criterion)


def importance(
    network: nn.Module, groups: Sequence[TracedGroup], criterion: Criterion, *, task: Task, data: Split, seed: int
) -> dict[str, Tensor]:
    """Score (channels,) of each channel of each group, by the group's name; the highest are kept.

    - `l1`, `l2` (Li et al. 2017): norm of the channel's weights, summed over all axes that it is a member of: the
      filters that make it and the columns that read it, every axis at a mean of 1, so that no layer drowns another.
    - `bn_scale` (Liu et al. 2017): absolute scale of its BatchNorms, summed; `l1` for a group without one.
    - `fpgm` (He et al. 2019): how far its filters are from all others of their layers.
    - `taylor` (Molchanov et al. 2019): by how much the task's loss changes, to first order, without it.
    - `lasso` (He et al. 2017): how early LASSO takes it to put the outputs of the layers that read it together.
    - `dcp` (Zhuang et al. 2018): how early it is chosen so that outputs are kept and classes kept apart.
    - `random`: drawn from `seed` and the group's name. A control.

    Only `taylor`, `lasso` and `dcp` look at `data`; they raise UserError if there is none. For a group that no
    convolution or linear layer reads, `lasso` and `dcp` are `l1`.
    """
    if not groups:
        return {}
    match criterion:
        case "taylor" | "lasso" | "dcp":
            device = device_of(network)
            inputs, targets = calibration(task, data, device, wanted_by=f"channels.criterion: {criterion}")
            found = _with_data(network, groups, criterion, task, inputs, targets)
            return {group.name: found[group.name] if group.name in found else l1(network, group) for group in groups}
        case "l1":
            return {group.name: l1(network, group) for group in groups}
        case "l2":
            return {group.name: l2(network, group) for group in groups}
        case "bn_scale":
            return {group.name: batchnorm_scale(network, group) for group in groups}
        case "fpgm":
            return {group.name: distances(network, group) for group in groups}
        case "random":
            return {group.name: drawn(group, seed) for group in groups}


def _with_data(
    network: nn.Module,
    groups: Sequence[TracedGroup],
    criterion: Literal["taylor", "lasso", "dcp"],
    task: Task,
    inputs: Tensor,
    targets: Tensor,
) -> dict[str, Tensor]:
    match criterion:
        case "taylor":
            return taylor(network, groups, task, inputs, targets)
        case "lasso":
            return by_lasso(network, groups, inputs)
        case "dcp":
            return by_discrimination(network, groups, task, inputs, targets)


def most_important(scores: Tensor, count: int) -> tuple[int, ...]:
    """Indices of the `count` highest scores, ascending; of equal ones the first.

    >>> most_important(torch.tensor([1.0, 3.0, 3.0, 2.0]), 2)
    (1, 2)
    """
    order = torch.sort(scores, descending=True, stable=True).indices
    return tuple(sorted(order[:count].tolist()))
