"""Global ranking: all channels of all groups in one order, by how much they matter for what they cost."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pocketpipe.budget import Limits
from pocketpipe.compression.channels.projection import AllowedWidths, cost_of, refuse_unreachable
from pocketpipe.compression.channels.step import SMALLEST_RATIO, ChannelsStep
from pocketpipe.compression.importance import Criterion, importance, most_important
from pocketpipe.compression.tracing import trace
from pocketpipe.errors import Mistakes
from pocketpipe.profile import ChannelGroup, Layer, NetworkProfile

if TYPE_CHECKING:
    from pocketpipe.task import Split, Task

COMPARABLE: tuple[Criterion, ...] = ("taylor", "bn_scale")
"""Criteria whose scores mean the same in every group; those of others are taken relative to their group's mean."""


def ranked(
    network: nn.Module,
    task: Task,
    data: Split,
    profile: NetworkProfile,
    limits: Limits,
    criterion: Criterion = "taylor",
    *,
    groups: Collection[str] | None = None,
    minimum: int = 1,
    multiple: int = 1,
    seed: int = 0,
) -> ChannelsStep:
    """The pinned step that is left when the channels that matter least for each MAC go until `limits` are kept.

    What a channel saves (MACs, or bytes where those are limited) is priced anew as widths change. `groups` are those
    that may be thinned (default: all that can be; `made_by_one` names those inside residual blocks), each down to
    `minimum` and a tenth of it, in multiples of `multiple`. Raises UserError if that does not reach the limits.
    """
    traced = {group.name: group for group in trace(network, task.input_shape).groups}
    candidates = _candidates(profile, groups)
    grid = AllowedWidths(minimum, multiple, SMALLEST_RATIO)
    refuse_unreachable(profile, candidates, grid, limits)
    scores = importance(
        network, [traced[group.name] for group in candidates], criterion, task=task, data=data, seed=seed
    )
    compared = scores if criterion in COMPARABLE else {name: _relative(score) for name, score in scores.items()}
    widths = widths_by_worth(profile, candidates, compared, grid, limits)
    return ChannelsStep(
        widths=widths,
        channels={
            group.name: most_important(scores[group.name], widths[group.name])
            for group in candidates
            if widths[group.name] < group.channels
        },
        criterion=criterion,
        minimum=minimum,
        multiple=multiple,
        seed=seed,
    )


def _candidates(profile: NetworkProfile, names: Collection[str] | None) -> list[ChannelGroup]:
    slimmable = {group.name: group for group in profile.slimmable}
    if unknown := sorted(set(names or ()) - set(slimmable)):
        known = ", ".join(slimmable)
        raise Mistakes([f"ranked: groups: {name!r} cannot be thinned; groups that can: {known}" for name in unknown])
    return [group for group in slimmable.values() if names is None or group.name in names]


def _relative(score: Tensor) -> Tensor:
    return score / score.abs().mean().clamp_min(1e-30)


def widths_by_worth(
    profile: NetworkProfile,
    groups: Collection[ChannelGroup],
    scores: Mapping[str, Tensor],
    grid: AllowedWidths,
    limits: Limits,
) -> dict[str, int]:
    """Widths of `groups` that keep `limits`. Pure; greedy: next goes what matters least for what it saves."""
    widths = {group.name: group.channels for group in groups}
    prices = _Prices.of(profile, limits)
    losses = {group.name: _losses(scores[group.name]) for group in groups}
    channels = dict(widths)

    def worth(name: str) -> float:
        """What the next channels of a group matter for what they save; infinite where none may go."""
        narrower = grid.narrower(widths[name], channels[name])
        if narrower >= widths[name]:
            return float("inf")
        lost = losses[name][channels[name] - narrower] - losses[name][channels[name] - widths[name]]
        return lost / max(prices.saved(name, widths, narrower), 1e-30)

    worths = {name: worth(name) for name in widths}
    while not limits.keeps(cost_of(profile, widths)):
        cheapest = min(worths, key=worths.__getitem__)
        if worths[cheapest] == float("inf"):
            break  # all are as narrow as they may be; refuse_unreachable has ruled that out for whole networks
        widths[cheapest] = grid.narrower(widths[cheapest], channels[cheapest])
        for name in prices.neighbours(cheapest) & worths.keys():
            worths[name] = worth(name)
    return widths


def _losses(scores: Tensor) -> list[float]:
    """What all channels matter together that are gone once the n least important ones are: index n."""
    return [0.0, *torch.cumsum(torch.sort(scores).values, 0).tolist()]


@dataclass(frozen=True)
class _Prices:
    """What channels cost, as shares of the limits, at any widths of the other groups."""

    channels: dict[str, int]
    layers: dict[str, tuple[Layer, ...]]
    """The layers that grow with each group."""
    limits: Limits

    @classmethod
    def of(cls, profile: NetworkProfile, limits: Limits) -> _Prices:
        layers = {
            group.name: tuple(layer for layer in profile.layers if group.name in _grows_with(layer))
            for group in profile.groups
        }
        return cls(profile.widths(), layers, limits)

    def saved(self, group: str, widths: Mapping[str, int], narrower: int) -> float:
        """The share of the limits, summed, that a group gives back at the width `narrower`."""
        before = {**self.channels, **widths}
        after = {**before, group: narrower}
        saved = 0.0
        for layer in self.layers[group]:
            wide, narrow = layer.cost(before), layer.cost(after)
            if self.limits.macs is not None:
                saved += (wide.macs - narrow.macs) / self.limits.macs
            if self.limits.file_bytes is not None:
                saved += (wide.stored_bytes - narrow.stored_bytes) / self.limits.file_bytes
            if self.limits.flash_bytes is not None:
                saved += (wide.flash_bytes - narrow.flash_bytes) / self.limits.flash_bytes
        return saved

    def neighbours(self, group: str) -> set[str]:
        """The groups whose channels cost something else when this one changes, itself among them."""
        return {group}.union(*(_grows_with(layer) for layer in self.layers[group]))


def _grows_with(layer: Layer) -> set[str]:
    axes = (*layer.weight, *layer.over, *([layer.bias] if layer.bias else []))
    return {name for axis in axes for name in axis.groups}
