"""Blocks: takes out whole residual blocks. At equal MACs what is left is faster than a network of thin layers."""

from __future__ import annotations

import copy
from collections.abc import Container, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field

from pocketpipe.budget import Limits
from pocketpipe.compression.batchnorm import reestimate_on
from pocketpipe.compression.blocks.choice import Chooser, Criterion
from pocketpipe.compression.blocks.following import Runs, reconstruct_shortened
from pocketpipe.compression.modules import device_of
from pocketpipe.compression.reconstruction import Reconstruction, Statistics
from pocketpipe.compression.sampling import training_views
from pocketpipe.compression.taking_out import moved_up, put
from pocketpipe.compression.tracing import profile_of, trace
from pocketpipe.errors import Mistakes, UserError
from pocketpipe.plan import STEPS, Step
from pocketpipe.profile import NetworkProfile

if TYPE_CHECKING:
    from torch import nn

    from pocketpipe.task import Split, Task

EXAMPLES = 512
"""Training examples on which pinning looks, if nothing else is said."""

Kept = dict[str, int]
"""Blocks that stay in each run, by the run's first block."""


@STEPS.register("blocks")
class BlocksStep(Step):
    """Keep that many blocks of each run; runs that are not named stay whole.

    A run is a chain of blocks that are built alike (`NetworkProfile.runs`), called by its first one. Which of them go
    changes neither the cost nor the names that are left, since those that stay move up: a plan knows what it costs,
    and what further steps will find, before anything is chosen.

    >>> step = BlocksStep(keep={"layer1.0": 5})
    >>> step.criterion, step.removed
    ('loss', None)
    """

    kind: ClassVar[str] = "blocks"
    left_to_search: ClassVar[frozenset[str]] = frozenset({"keep", "removed"})
    refused_after: ClassVar[Mapping[str, str]] = {
        "quantization": "its scales belong to the activations that there were; put blocks first",
        "codebook": "its tables would be learned for weights that go; put blocks first",
    }

    keep: dict[str, Annotated[int, Field(ge=0)]] = {}
    """Blocks that stay in each run, by the name of its first block."""
    removed: tuple[str, ...] | None = None
    """Which blocks go, first one first; None until pinned. Given by hand, it says how many, too."""
    criterion: Criterion = "loss"
    """By what pinning chooses them: see `blocks.choice`."""
    reconstruction: Reconstruction | None = "least_squares"
    """Whether the layers behind a removed block get weights that reproduce their outputs: see `reconstruction`."""
    statistics: Statistics = "reestimated"
    """Whether BatchNorm's statistics are measured anew after the removal."""
    examples: Annotated[int, Field(ge=1)] = EXAMPLES
    """How many training examples pinning looks at."""
    seed: int = 0
    """Of the criterion `random`."""

    def space(self, profile: NetworkProfile) -> dict[str, dict[str, Any]]:
        """For each run how many of its blocks stay."""
        return {run[0]: {"_type": "randint", "_value": [0, len(run) + 1]} for run in profile.runs}

    def proposed(self, parameters: Mapping[str, Any], profile: NetworkProfile) -> Self:
        """As many blocks as proposed; runs that an earlier step took out are not asked for.

        Of a run that an earlier step has parted (blocks of other widths are no longer alike) the first blocks stay, as
        of the whole.
        """
        keep = {}
        for run in profile.runs:
            first, before = _whole_run(run[0], parameters, profile)
            if first in parameters:
                keep[run[0]] = min(max(round(parameters[first]) - before, 0), len(run))
        return self.model_copy(update={"keep": keep})

    def informed(
        self, network: nn.Module, task: Task, data: Split, profile: NetworkProfile, limits: Limits
    ) -> tuple[dict[str, int], ...]:
        """How many blocks of each run stay when those that matter least go first, of whatever run."""
        runs = profile.runs
        chooser = Chooser(network, task, data, self.examples, self.seed)
        keep, first_of = _whole(runs), {path: run[0] for run in runs for path in run}
        order = chooser.in_order(self.criterion, {run: len(run) for run in runs})
        while not limits.keeps(_left(profile, runs, keep).cost()):
            goes = next(order, None)
            if goes is None:
                return ()
            keep[first_of[goes]] -= 1
        return (keep,)

    @classmethod
    def cheapest(
        cls,
        network: nn.Module,
        task: Task,
        data: Split,
        count: int,
        *,
        criterion: Criterion = "loss",
        examples: int = EXAMPLES,
        seed: int = 0,
    ) -> Self:
        """The pinned step that takes out `count` blocks, of whatever run. Raises UserError if there are fewer."""
        runs = profile_of(network, task.input_shape).runs
        available = sum(map(len, runs))
        if count > available:
            raise UserError(f"blocks: {count} blocks are to go, but only {available} of this network can")
        chooser = Chooser(network, task, data, examples, seed)
        removed = chooser.order(criterion, {run: len(run) for run in runs}, count)
        keep = {run[0]: len(run) - len({*run} & {*removed}) for run in runs}
        return cls(keep=keep, removed=removed, criterion=criterion, examples=examples, seed=seed)

    def project(self, profile: NetworkProfile, limits: Limits) -> Self:
        """The fewest blocks removed that keep `limits`, on the way from the whole network over this step to nothing.

        Raises UserError, with what can be reached, if not even a network without blocks keeps them.
        """
        self._refuse_misfits(profile)
        runs = profile.runs
        keep, gone = _whole(runs), list[str]()

        def cost_kept(keep: Kept) -> bool:
            return limits.keeps(_left(profile, runs, keep).cost())

        for name in _order_on_the_way(keep, self._kept(runs)):
            if cost_kept(keep):
                break
            keep[name] -= 1
            gone.append(name)
        if not cost_kept(keep):
            _refuse_unreachable(profile, limits)
        for name in reversed(gone):  # a large block that went late may have made up for small ones
            if cost_kept({**keep, name: keep[name] + 1}):
                keep[name] += 1
        return self.model_copy(update={"keep": keep, "removed": None})

    def predict(self, profile: NetworkProfile) -> NetworkProfile:
        """The profile with fewer blocks in each run, at the end of which places are empty then."""
        self._refuse_misfits(profile)
        return _left(profile, profile.runs, self._kept(profile.runs), self.removed)

    def pin(self, network: nn.Module, task: Task, data: Split) -> Self:
        """The blocks that matter least by the criterion, on the first examples of `data`."""
        profile = profile_of(network, task.input_shape)
        self._refuse_misfits(profile)
        if self.removed is not None:
            return self
        kept = self._kept(profile.runs)
        quotas = {run: len(run) - kept[run[0]] for run in profile.runs}
        chooser = Chooser(network, task, data, self.examples, self.seed)
        return self.model_copy(update={"removed": chooser.order(self.criterion, quotas, sum(quotas.values()))})

    def apply(self, network: nn.Module, task: Task) -> nn.Module:
        """A copy of `network` without the pinned blocks. Raises UserError if it is not pinned, or does not fit."""
        if self.removed is None:
            raise UserError("blocks: which blocks go is still open; pin the step to a network first")
        profile = profile_of(network, task.input_shape)
        self._refuse_misfits(profile)
        shorter = copy.deepcopy(network)
        for run in profile.runs:
            put(shorter, moved_up(shorter, run, [path for path in run if path not in self.removed]))
        return shorter

    def calibrate(self, network: nn.Module, before: nn.Module, task: Task, data: Split) -> None:
        """Reconstruct what the layers behind a block that is gone put out, and re-estimate BatchNorm.

        Raises UserError if that takes examples and there are none.
        """
        if not self.removed:
            return
        if self.reconstruction == "least_squares":
            wanted_by = f"{self.kind}.reconstruction: {self.reconstruction} (null does without)"
            examples = training_views(task, data, device_of(network), wanted_by=wanted_by)
            traced = trace(before, task.input_shape)
            runs = profile_of(before, task.input_shape).runs
            reconstruct_shortened(network, before, traced, runs, self.removed, examples, statistics=self.statistics)
        if self.statistics == "reestimated":
            reestimate_on(network, task, data)

    def reopened(self, profile: NetworkProfile) -> Self:
        """With the same number of blocks, whichever: those of a run need not be equally dense."""
        return self.model_copy(update={"keep": self._kept(profile.runs), "removed": None})

    def in_portions(self, profile: NetworkProfile, count: int) -> tuple[Step, ...]:
        """The same share of every run's blocks in each portion; which ones, each chooses on the network it meets."""
        whole, end = _whole(profile.runs), self._kept(profile.runs)

        def stop(share: float) -> Kept:
            return {name: round(blocks + share * (end[name] - blocks)) for name, blocks in whole.items()}

        return self._by_way_of([stop(portion / count) for portion in range(1, count)], profile)

    def by_layers(self, profile: NetworkProfile, every: int) -> tuple[Step, ...]:
        """Run after run, from the front: each step takes out blocks until these hold `every` layers.

        Which ones, each step chooses on the network that it meets.
        """
        layers = {block.name: len(block.layers) for block in profile.blocks}
        keep, end = _whole(profile.runs), self._kept(profile.runs)
        stops, taken = list[Kept](), 0
        for run in [name for name, blocks in keep.items() for _ in range(blocks - end[name])]:
            keep = {**keep, run: keep[run] - 1}
            taken += layers[run]
            if taken >= every:
                stops.append(keep)
                taken = 0
        return self._by_way_of(stops, profile)

    def _by_way_of(self, stops: list[Kept], profile: NetworkProfile) -> tuple[Step, ...]:
        """Steps to each of `stops`, then to the end. A run is used up by the last step only: until then none loses
        its name, and no two become one."""
        before, end = _whole(profile.runs), self._kept(profile.runs)
        steps: list[Step] = []
        for stop in (*({name: max(1, kept) for name, kept in stop.items()} for stop in stops), end):
            changed = {name: kept for name, kept in stop.items() if kept != before[name]}
            if changed:
                steps.append(self.model_copy(update={"keep": changed, "removed": None}))
            before = stop
        return tuple(steps) if len(steps) > 1 else (self,)

    def _kept(self, runs: Runs) -> Kept:
        """Blocks that stay in each run."""
        gone = self.removed
        if gone is None:
            return {run[0]: self.keep.get(run[0], len(run)) for run in runs}
        return {run[0]: sum(path not in gone for path in run) for run in runs}

    def _refuse_misfits(self, profile: NetworkProfile) -> None:
        """Raise Mistakes for what does not fit a network's blocks, a line each."""
        runs = {run[0]: run for run in profile.runs}
        known = ", ".join(f"{name} ({len(run)} blocks)" for name, run in runs.items()) or "none in this network"
        mistakes = []
        kept = self._kept(profile.runs)
        for name, count in sorted(self.keep.items()):
            if name not in runs:
                mistakes.append(f"blocks.keep.{name}: no run of blocks begins there; runs: {known}")
            elif count > len(runs[name]):
                mistakes.append(f"blocks.keep.{name}: {count} of {len(runs[name])} blocks")
            elif count != kept[name]:
                mistakes.append(f"blocks.keep.{name}: {count}, but blocks.removed leaves {kept[name]}")
        blocks = {path for run in profile.runs for path in run}
        for path in self.removed or ():
            if path not in blocks:
                mistakes.append(f"blocks.removed: {path!r} cannot be taken out; runs: {known}")
        if len({*(self.removed or ())}) < len(self.removed or ()):
            mistakes.append("blocks.removed: a block is named twice")
        if mistakes:
            raise Mistakes(mistakes)


def _whole_run(block: str, named: Container[str], profile: NetworkProfile) -> tuple[str, int]:
    """(the block at which the run of `block` began, if that is `named`; how many of the run come before `block`)."""
    follows = {each.name: each.follows for each in profile.blocks}
    first, before = block, 0
    while first not in named and follows[first] is not None:
        first, before = str(follows[first]), before + 1
    return first, before


def _whole(runs: Runs) -> Kept:
    return {run[0]: len(run) for run in runs}


def _vacated(runs: Runs, keep: Kept) -> list[str]:
    """The places that are empty when each run keeps that many blocks: its last ones."""
    return [path for run in runs for path in run[keep[run[0]] :]]


def _left(profile: NetworkProfile, runs: Runs, keep: Kept, removed: tuple[str, ...] | None = None) -> NetworkProfile:
    """The profile when each run keeps that many blocks: those that are not `removed`, once that is known.

    Blocks of a run are built alike, but a mask may have left them more or fewer weights: while it is open which ones
    stay, each place is as dense as the densest of the run.
    """
    return profile.with_layers(_densities(profile, runs, keep, removed)).without(_vacated(runs, keep))


def _densities(
    profile: NetworkProfile, runs: Runs, keep: Kept, removed: tuple[str, ...] | None
) -> dict[str, dict[str, float]]:
    """By layer of the places that are left, where a run's blocks differ."""
    inside = {block.name: block.layers for block in profile.blocks}
    density = {layer.name: layer.density for layer in profile.layers}
    found: dict[str, dict[str, float]] = {}
    for run in runs:
        if keep[run[0]] == len(run):
            continue
        staying = run if removed is None else tuple(path for path in run if path not in removed)
        for place in range(keep[run[0]]):
            moved_in = run if removed is None else (staying[place],)
            for position, layer in enumerate(inside[run[place]]):
                densest = max(density[inside[path][position]] for path in moved_in)
                if densest != density[layer]:
                    found[layer] = {"density": densest}
    return found


def _order_on_the_way(whole: Kept, proposed: Kept) -> Iterator[str]:
    """In which order the runs lose blocks: first evenly down to what is proposed, then evenly down to nothing."""
    losses: list[tuple[float, int, str]] = []
    for position, (name, blocks) in enumerate(whole.items()):
        above, below = blocks - proposed[name], proposed[name]
        losses += [((number + 0.5) / above, position, name) for number in range(above)]
        losses += [(1 + (number + 0.5) / below, position, name) for number in range(below)]
    return (name for _, _, name in sorted(losses))


def _refuse_unreachable(profile: NetworkProfile, limits: Limits) -> None:
    smallest = profile.without([block.name for block in profile.blocks]).cost()
    reachable = profile.cost().ratio_to(smallest)
    raise UserError(
        f"blocks: without any block {limits.over(smallest)}; reachable: speedup {reachable['speedup']:.4g}, "
        f"compression {reachable['compression']:.4g}"
    )
