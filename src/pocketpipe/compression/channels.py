"""Channels: removes whole channels. What is left is an ordinary dense network with fewer of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field

from pocketpipe.budget import Limits
from pocketpipe.compression.batchnorm import reestimate_on
from pocketpipe.compression.importance import Criterion, importance, most_important
from pocketpipe.compression.projection import Grid, projected
from pocketpipe.compression.slimming import refuse_broken, slim
from pocketpipe.compression.tracing import trace
from pocketpipe.errors import Mistakes, UserError
from pocketpipe.plan import STEPS, Step
from pocketpipe.profile import ChannelGroup, NetworkProfile

if TYPE_CHECKING:
    from torch import nn

    from pocketpipe.task import Split, Task

SMALLEST_RATIO = 0.1
"""The least share of a group's channels that search and projection leave."""

Count = Annotated[int, Field(ge=1)]


@STEPS.register("channels")
class ChannelsStep(Step):
    """Keep `widths` channels of each group; groups that are not named stay whole.

    >>> step = ChannelsStep(widths={"conv1": 12})
    >>> step.criterion, step.channels
    ('l1', None)
    """

    kind: ClassVar[str] = "channels"
    refused_after: ClassVar[Mapping[str, str]] = {
        "quantization": "its scales belong to the channels that there were; put channels first",
        "codebook": "its tables belong to the channels that there were; put channels first",
    }

    widths: dict[str, Count]
    """Channels to keep by the group's name."""
    channels: dict[str, tuple[int, ...]] | None = None
    """Which ones, ascending; None until pinned."""
    criterion: Criterion = "l1"
    """By what pinning chooses them: see `importance`."""
    minimum: Count = 1
    """Fewest channels that projection leaves in a group."""
    multiple: Count = 1
    """Projection keeps multiples of this (or a group whole): what the target computes at once."""
    seed: int = 0
    """Of the criterion `random`."""

    @classmethod
    def space(cls, profile: NetworkProfile) -> dict[str, dict[str, Any]]:
        """One keep ratio for each group that can be thinned."""
        return {group.name: {"_type": "uniform", "_value": [SMALLEST_RATIO, 1.0]} for group in profile.slimmable}

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, float], profile: NetworkProfile) -> Self:
        """Widths nearest to the ratios."""
        grid = cls(widths={})._grid
        channels = {group.name: group.channels for group in profile.slimmable}
        return cls(
            widths={name: grid.nearest(ratio * channels[name], channels[name]) for name, ratio in parameters.items()}
        )

    @property
    def _grid(self) -> Grid:
        return Grid(self.minimum, self.multiple, SMALLEST_RATIO)

    def project(self, profile: NetworkProfile, limits: Limits) -> Self:
        """Widths in the same proportions that keep `limits`, at most 2 % under the binding one where channels allow."""
        self._refuse_misfits(profile.groups)
        ratios = {
            group.name: self.widths.get(group.name, group.channels) / group.channels for group in profile.slimmable
        }
        return self.model_copy(update={"widths": projected(profile, ratios, self._grid, limits), "channels": None})

    def predict(self, profile: NetworkProfile) -> NetworkProfile:
        """The profile with fewer channels."""
        self._refuse_misfits(profile.groups)
        return profile.narrowed(self.widths)

    def pin(self, network: nn.Module, task: Task, data: Split) -> Self:
        """The channels that matter most by the criterion; `data` is not looked at."""
        traced = trace(network, task.input_shape)
        self._refuse_misfits(traced.profile().groups)
        if self.channels is not None:
            return self
        chosen = {
            group.name: most_important(importance(network, group, self.criterion, self.seed), self.widths[group.name])
            for group in traced.groups
            if self.widths.get(group.name, group.channels) < group.channels
        }
        return self.model_copy(update={"channels": chosen})

    def apply(self, network: nn.Module, task: Task) -> nn.Module:
        """A copy of `network` with just the pinned channels. Raises UserError if it is not pinned, or does not fit."""
        if self.channels is None:
            raise UserError("channels: which channels to keep is still open; pin the step to a network first")
        traced = trace(network, task.input_shape)
        self._refuse_misfits(traced.profile().groups)
        slimmed = slim(network, traced, self.channels)
        refuse_broken(slimmed, task.input_shape)
        return slimmed

    def calibrate(self, network: nn.Module, before: nn.Module, task: Task, data: Split) -> None:
        """Re-estimate BatchNorm: the statistics of the large network no longer hold."""
        reestimate_on(network, task, data)

    def _refuse_misfits(self, groups: tuple[ChannelGroup, ...]) -> None:
        """Raise Mistakes for what does not fit a network's groups, a line each."""
        known = {group.name: group for group in groups}
        mistakes = []
        for name, width in sorted(self.widths.items()):
            group = known.get(name)
            if group is None:
                mistakes.append(f"channels.widths.{name}: no such group; groups: {', '.join(known)}")
            elif width > group.channels:
                mistakes.append(f"channels.widths.{name}: {width} of {group.channels} channels")
            elif width < group.channels and not group.slimmable:
                mistakes.append(f"channels.widths.{name}: cannot be thinned: {group.reason}")
        for name, kept in sorted((self.channels or {}).items()):
            group = known.get(name)
            if (
                group is None
                or len(kept) != self.widths.get(name)
                or list(kept) != sorted({*kept} & {*range(group.channels)})
            ):
                mistakes.append(
                    f"channels.channels.{name}: not {self.widths.get(name)} ascending channels of a known group"
                )
        if mistakes:
            raise Mistakes(mistakes)
