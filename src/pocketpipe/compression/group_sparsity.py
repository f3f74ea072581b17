"""Group sparsity: a penalty that drives whole coupled channels towards zero, before they are cut.

What a cut removes is a channel with all that is coupled to it: the filters that make it, the columns that read it, its
BatchNorm. So the penalty is one norm over all of them (DepGraph, Fang et al. 2023, section 3.3, which penalizes its
square): group lasso (Yuan and Lin 2006) over the groups that tracing finds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations

import torch
from torch import Tensor, nn

from pocketpipe.compression.tracing import Trace, TracedGroup

SMALLEST_SQUARE = 1e-24
"""Below this the square of a norm counts as zero: there the norm has no derivative, and 0 is a subgradient."""


def penalty(network: nn.Module, trace: Trace, *, focus: float = 0.0) -> Tensor:
    """Sum over the channels of all slimmable groups of `pull * norm`, a differentiable scalar.

    `norm` is the Euclidean norm of everything that goes with the channel; `pull` is `pulls(norms, focus)`, at focus 0
    one: plain group lasso. 0 for a network without slimmable groups.
    """
    parameters = dict(network.named_parameters())
    norms = [
        channel_norms(parameters, group)
        for group in trace.groups
        if group.slimmable and any(name in parameters for name, _ in group.places)
    ]
    if not norms:
        return next(iter(parameters.values())).new_zeros(())
    return torch.stack([(pulls(each, focus) * each).sum() for each in norms]).sum()


def on_device(trace: Trace, device: torch.device) -> Trace:
    """The trace with its indices there; a GPU would wait for them at every step."""
    groups = (
        replace(group, places={place: indices.to(device) for place, indices in group.places.items()})
        for group in trace.groups
    )
    return replace(trace, groups=tuple(groups))


def channel_norms(parameters: Mapping[str, Tensor], group: TracedGroup) -> Tensor:
    """(channels,) Euclidean norm of all parameters of each channel of `group`; `parameters` by their names."""
    axes: dict[str, dict[int, Tensor]] = {}
    for (name, dim), indices in group.places.items():
        if name in parameters:
            axes.setdefault(name, {})[dim] = indices.to(parameters[name].device)
    squares = [_channel_squares(parameters[name].square(), places) for name, places in axes.items()]
    return torch.stack(squares).sum(0).clamp_min(SMALLEST_SQUARE).sqrt()


def _channel_squares(squares: Tensor, places: Mapping[int, Tensor]) -> Tensor:
    """(channels,) sum over the positions of each channel along the axes `places`, each element once."""
    total = torch.stack([_summed_to(squares, dim)[indices].sum(1) for dim, indices in places.items()]).sum(0)
    # A weight that both makes and reads the channels of its group has elements on two axes of the same channel.
    for (one, rows), (other, columns) in combinations(sorted(places.items()), 2):
        total = total - _summed_to(squares, one, other)[rows[:, :, None], columns[:, None, :]].sum((1, 2))
    return total


def _summed_to(tensor: Tensor, *dims: int) -> Tensor:
    """The tensor summed over all axes but `dims`."""
    others = [dim for dim in range(tensor.ndim) if dim not in dims]
    return tensor.sum(others) if others else tensor


def pulls(norms: Tensor, focus: float) -> Tensor:
    """How hard each channel of a group is pulled: 1 for the strongest, 2^focus for the weakest (DepGraph, section 3.3).

    The exponent is linear in the squared norm. A constant for the gradient.

    >>> pulls(torch.tensor([1.0, 2.0, 3.0]), 4.0).tolist()
    [16.0, 5.656854152679443, 1.0]
    """
    squares = norms.detach().square()
    strongest, weakest = squares.max(), squares.min()
    share = (strongest - squares) / (strongest - weakest).clamp_min(SMALLEST_SQUARE)
    return torch.exp2(focus * share)
