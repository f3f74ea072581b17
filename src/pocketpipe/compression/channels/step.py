"""Channels: removes whole channels. What is left is an ordinary dense network with fewer of them."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field

from pocketpipe.budget import Limits
from pocketpipe.compression.batchnorm import reestimate_on
from pocketpipe.compression.channels.following import reconstruct_thinned
from pocketpipe.compression.channels.portions import by_groups, in_portions
from pocketpipe.compression.channels.projection import AllowedWidths, projected
from pocketpipe.compression.importance import Criterion, importance, most_important
from pocketpipe.compression.modules import device_of
from pocketpipe.compression.reconstruction import Reconstruction, Statistics
from pocketpipe.compression.sampling import training_views
from pocketpipe.compression.slimming import refuse_broken, slim
from pocketpipe.compression.sparsity import SparsityStep
from pocketpipe.compression.tracing import trace
from pocketpipe.errors import Mistakes, UserError
from pocketpipe.plan import STEPS, Step
from pocketpipe.profile import ChannelGroup, NetworkProfile, matches

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
    left_to_search: ClassVar[frozenset[str]] = frozenset({"widths", "channels"})
    refused_after: ClassVar[Mapping[str, str]] = {
        "quantization": "its scales belong to the channels that there were; put channels first",
        "codebook": "its tables belong to the channels that there were; put channels first",
    }
    widths: dict[str, Count] = {}
    """Channels to keep by the group's name."""
    channels: dict[str, tuple[int, ...]] | None = None
    """Which ones, ascending; None until pinned."""
    criterion: Criterion = "l1"
    """By what pinning chooses them: see `importance`."""
    reconstruction: Reconstruction | None = "least_squares"
    """Whether the layers after a cut get weights that reproduce their outputs: see `reconstruction`."""
    statistics: Statistics = "reestimated"
    """Whether BatchNorm's statistics are measured anew after the cut."""
    pinned: tuple[str, ...] = ()
    """Patterns (as of file names) of layers: a group that one of them makes is left whole."""
    minimum: Count = 1
    """Fewest channels that projection leaves in a group."""
    multiple: Count = 1
    """Projection keeps multiples of this (or a group whole): what the target computes at once."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the criterion `random`."""

    def refused_with(self, earlier: Step) -> str | None:
        """After masks of n:m that are final: without some channels, others stand next to each other."""
        if not isinstance(earlier, SparsityStep) or earlier.schedule_in_training == "gradual":
            return None
        if earlier.pattern == "unstructured":
            return None
        return (
            f"channels after sparsity {earlier.pattern}: without some channels its groups of neighbours are others; "
            "put channels first, or set schedule: gradual in sparsity"
        )

    def space(self, profile: NetworkProfile) -> dict[str, dict[str, Any]]:
        """One keep ratio for each group that can be thinned and is not pinned."""
        return {group.name: {"_type": "uniform", "_value": [SMALLEST_RATIO, 1.0]} for group in self.free(profile)}

    def proposed(self, parameters: Mapping[str, Any], profile: NetworkProfile) -> Self:
        """Widths nearest to the ratios; groups that an earlier step took out with their block are not asked for."""
        channels = {group.name: group.channels for group in profile.slimmable if group.name in parameters}
        widths = {name: self._grid.nearest(parameters[name] * width, width) for name, width in channels.items()}
        return self.model_copy(update={"widths": widths})

    def informed(
        self, network: nn.Module, task: Task, data: Split, profile: NetworkProfile, limits: Limits
    ) -> tuple[dict[str, float], ...]:
        """The widths that a ranking of all channels by Taylor for each MAC leaves: see `ranked`."""
        from pocketpipe.compression.channels.ranking import ranked  # which makes steps of this class

        groups = {group.name: group.channels for group in self.free(profile)}
        step = ranked(
            network, task, data, profile, limits, "taylor",
            groups=groups, minimum=self.minimum, multiple=self.multiple, seed=self.seed,
        )  # fmt: skip
        return ({name: step.widths.get(name, width) / width for name, width in groups.items()},)

    @property
    def _grid(self) -> AllowedWidths:
        return AllowedWidths(self.minimum, self.multiple, SMALLEST_RATIO)

    def free(self, profile: NetworkProfile) -> tuple[ChannelGroup, ...]:
        """The groups that this step may thin: those that can be and are not pinned.

        Raises Mistakes for a pattern that matches no layer.
        """
        if mistakes := self._idle_patterns(profile):
            raise Mistakes(mistakes)
        return tuple(group for group in profile.slimmable if self._pinned_by(group) is None)

    def _pinned_by(self, group: ChannelGroup) -> str | None:
        """The first pattern that keeps the group whole."""
        made = [(pattern, member) for pattern in self.pinned for member in group.members]
        return next((pattern for pattern, member in made if matches(member, [pattern])), None)

    def project(self, profile: NetworkProfile, limits: Limits) -> Self:
        """Widths in the same proportions that keep `limits`, at most 2 % under the binding one where channels allow."""
        self._refuse_misfits(profile)
        ratios = {
            group.name: self.widths.get(group.name, group.channels) / group.channels for group in self.free(profile)
        }
        return self.model_copy(update={"widths": projected(profile, ratios, self._grid, limits), "channels": None})

    def predict(self, profile: NetworkProfile) -> NetworkProfile:
        """The profile with fewer channels."""
        self._refuse_misfits(profile)
        return profile.narrowed(self.widths)

    def in_portions(self, profile: NetworkProfile, count: int) -> tuple[ChannelsStep, ...]:
        """Steps that lead to these widths, each for the network that the one before left, at even factors of MACs."""
        self._refuse_misfits(profile)
        steps, reached = [], profile.widths()
        for widths in in_portions(profile, self.widths, count):
            # Only what changes is named: an axis of length 1, once there, belongs to no group any more.
            steps.append(self._to({name: width for name, width in widths.items() if width != reached[name]}))
            reached |= widths
        return tuple(steps)

    def by_layers(self, profile: NetworkProfile, every: int) -> tuple[ChannelsStep, ...]:
        """Steps that each bring the next `every` thinned groups, in graph order, to their widths."""
        self._refuse_misfits(profile)
        return tuple(self._to(widths) for widths in by_groups(profile, self.widths, every))

    def _to(self, widths: dict[str, int]) -> Self:
        """This step with other widths, open again: training moves what the channels are worth."""
        return self.model_copy(update={"widths": widths, "channels": None})

    def pin(self, network: nn.Module, task: Task, data: Split) -> Self:
        """The channels that matter most by the criterion; only some criteria look at `data`."""
        traced = trace(network, task.input_shape)
        self._refuse_misfits(traced.profile())
        if self.channels is not None:
            return self
        thinned = [group for group in traced.groups if self.widths.get(group.name, group.channels) < group.channels]
        scores = importance(network, thinned, self.criterion, task=task, data=data, seed=self.seed)
        chosen = {name: most_important(score, self.widths[name]) for name, score in scores.items()}
        return self.model_copy(update={"channels": chosen})

    def apply(self, network: nn.Module, task: Task) -> nn.Module:
        """A copy of `network` with just the pinned channels. Raises UserError if it is not pinned, or does not fit."""
        traced = trace(network, task.input_shape)
        self._refuse_misfits(traced.profile())
        slimmed = slim(network, traced, self._chosen)
        refuse_broken(slimmed, task.input_shape)
        return slimmed

    @property
    def _chosen(self) -> Mapping[str, tuple[int, ...]]:
        if self.channels is None:
            raise UserError("channels: which channels to keep is still open; pin the step to a network first")
        return self.channels

    def calibrate(self, network: nn.Module, before: nn.Module, task: Task, data: Split) -> None:
        """Reconstruct what the cut layers put out, and re-estimate BatchNorm: its statistics no longer hold.

        Does nothing where nothing was cut. Raises UserError if that takes examples and there are none.
        """
        if not self._chosen:
            return
        if self.reconstruction == "least_squares":
            wanted_by = f"{self.kind}.reconstruction: {self.reconstruction} (null does without)"
            examples = training_views(task, data, device_of(network), wanted_by=wanted_by)
            traced = trace(before, task.input_shape)
            reconstruct_thinned(network, before, traced, self._chosen, examples, statistics=self.statistics)
        if self.statistics == "reestimated":
            reestimate_on(network, task, data)

    def _refuse_misfits(self, profile: NetworkProfile) -> None:
        """Raise Mistakes for what does not fit a network's groups, a line each."""
        known = {group.name: group for group in profile.groups}
        mistakes = self._idle_patterns(profile)
        for name, width in sorted(self.widths.items()):
            if (problem := self._width_problem(known.get(name), width)) is not None:
                mistakes.append(f"channels.widths.{name}: {problem}{'' if name in known else _known(known)}")
        for name, kept in sorted((self.channels or {}).items()):
            if name not in known or not self._fits(known[name], kept):
                wanted = self.widths.get(name)
                mistakes.append(f"channels.channels.{name}: not {wanted} ascending channels of a known group")
        if self.channels is not None:
            unnamed = [name for name in known if self.widths.get(name, known[name].channels) < known[name].channels]
            mistakes += [
                f"channels.channels.{name}: {self.widths[name]} of its channels are to stay, and none is named"
                for name in sorted(set(unnamed) - set(self.channels))
            ]
        if mistakes:
            raise Mistakes(mistakes)

    def _width_problem(self, group: ChannelGroup | None, width: int) -> str | None:
        if group is None:
            return "no such group"
        if width > group.channels:
            return f"{width} of {group.channels} channels"
        if width < group.channels and not group.slimmable:
            return f"cannot be thinned: {group.reason}"
        if width < group.channels and (pattern := self._pinned_by(group)) is not None:
            return f"{width} of {group.channels} channels, but {pattern!r} in channels.pinned keeps it whole"
        return None

    def _fits(self, group: ChannelGroup, kept: tuple[int, ...]) -> bool:
        ascending = sorted({*kept} & {*range(group.channels)})
        return len(kept) == self.widths.get(group.name) and list(kept) == ascending

    def _idle_patterns(self, profile: NetworkProfile) -> list[str]:
        """A line for each pattern that matches no layer."""
        layers, idle = [layer.name for layer in profile.layers], profile.idle(self.pinned)
        return [f"channels.pinned: {pattern!r} matches no layer; {_close(pattern, layers)}" for pattern in idle]


def _known(groups: Mapping[str, ChannelGroup]) -> str:
    return f"; groups: {', '.join(groups)}"


def _close(pattern: str, layers: list[str]) -> str:
    close = get_close_matches(pattern, layers, n=3, cutoff=0.4)
    return f"close: {', '.join(close)}" if close else f"layers: {', '.join(layers[:3])}, ..."
