"""How much of a budget one method of several gets, so that those after it can keep their proposed share."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pocketpipe.budget import Limits, farthest
from pocketpipe.cost import Cost
from pocketpipe.errors import UserError
from pocketpipe.plan import Step
from pocketpipe.profile import NetworkProfile
from pocketpipe.search.space import Methods, as_proposed, between, joint_space, one_nearer, proposed, shrunk

CLOSE_ENOUGH = 0.98
"""Share of the binding limit at which the search for a share stops."""
ROUNDS = 8
SHOWS = 0.5
"""Share of what a step saves in the end that its own prediction has to show, for it to project itself."""


@dataclass(frozen=True)
class Sharing:
    """One method's step, and what comes after it."""

    method: Step
    rest: Methods
    """The methods after it, which will be as `parameters` propose."""
    parameters: Mapping[str, Any]
    profile: NetworkProfile
    """Before the step."""
    limits: Limits
    """For the network after all methods."""

    def step(self) -> Step:
        """The step nearest to the proposed one with which the limits are just kept, as far as it is for it to see to.

        Raises UserError if it is the last one, and cannot be brought under them.
        """
        asked = self._at(self.parameters)
        if not self.rest:
            return asked.project(self.profile, self.limits)
        if not self._ours.given():
            return asked
        return self._onto_its_share(asked) if self._is_foreseen() else self._along_its_range()

    def _at(self, point: Mapping[str, Any]) -> Step:
        return proposed(self.method, point, self.profile)

    def _cost_here(self, step: Step) -> Cost:
        return step.predict(self.profile).cost()

    def _cost_at_the_end(self, step: Step) -> Cost:
        after = step.predict(self.profile)
        return as_proposed(self.rest, self.parameters, after).predict(after).cost()

    @cached_property
    def _space(self) -> dict[str, dict[str, Any]]:
        return joint_space([self.method], self.profile)

    @cached_property
    def _range(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Its largest and its smallest parameters."""
        return shrunk([self.method], self.profile, 0.0), shrunk([self.method], self.profile, 1.0)

    @cached_property
    def _saved(self) -> dict[str, tuple[int, int]]:
        """What it can save of each cost that is limited: (by its own prediction, in the end)."""
        large, small = (self._at(point) for point in self._range)
        here = self._cost_here(large), self._cost_here(small)
        end = self._cost_at_the_end(large), self._cost_at_the_end(small)

        def saved(name: str, costs: tuple[Cost, Cost]) -> int:
            return (getattr(costs[0], name) or 0) - (getattr(costs[1], name) or 0)  # None: not known of this network

        return {name: (saved(name, here), saved(name, end)) for name in self.limits.given()}

    @cached_property
    def _ours(self) -> Limits:
        """The limits that it has an influence on; the others are for later steps to see to.

        A method of which nothing is open may still be able to do with less than the user has said.
        """
        known = self._cost_here(self._at(self.parameters))
        is_open = bool(self._space)
        ours = [name for name, (_, end) in self._saved.items() if end > 0 or not is_open]
        return self.limits.only(*(name for name in ours if getattr(known, name) is not None))

    def _is_foreseen(self) -> bool:
        """Whether its own prediction shows what it saves in the end.

        A table of integers saves flash only where a later quantization makes all else integers.
        """
        return all(self._saved[name][0] >= SHOWS * self._saved[name][1] for name in self._ours.given())

    def _onto_its_share(self, asked: Step) -> Step:
        """Projected onto limits for here that end in the limits; the best of some rounds.

        A step of coarse parts (whole blocks) may come to lie above and below in turn. As asked if it cannot save its
        share: later steps may save more than they were to.
        """
        rounds: list[tuple[Step, Cost]] = []
        share = self._rescaled(self._cost_here(asked), self._cost_at_the_end(asked))
        for _ in range(ROUNDS):
            step = self._projected(asked, share)
            end = self._cost_at_the_end(step)
            rounds.append((step, end))
            usage = self._ours.usage(end)
            if CLOSE_ENOUGH <= usage <= 1:
                break
            # Over the limits it must get less than this step takes: a share that is only a little smaller leads to the
            # same step where costs come in lumps, as RAM does.
            spent = self._cost_here(step) if usage > 1 else end.model_copy(update=share.given())
            share = self._rescaled(spent, end)
        return max(rounds, key=self._merit)[0]

    def _rescaled(self, here: Cost, end: Cost) -> Limits:
        """The limits for here, if `here` becomes `end` and the end has to keep ours."""
        shares = {
            name: int(limit * getattr(here, name) / getattr(end, name)) for name, limit in self._ours.given().items()
        }
        return Limits.model_validate(shares)

    def _projected(self, asked: Step, share: Limits) -> Step:
        """Onto all of the share, else onto what of it can be had alone, else as asked."""
        whole = self._tried(asked, share)
        if whole is not None:
            return whole
        alone = [name for name in share.given() if self._tried(asked, share.only(name)) is not None]
        part = self._tried(asked, share.only(*alone)) if alone else None
        return asked if part is None else part

    def _tried(self, asked: Step, share: Limits) -> Step | None:
        try:
            return asked.project(self.profile, share)
        except UserError:
            return None

    def _merit(self, found: tuple[Step, Cost]) -> tuple[bool, float]:
        """Within the limits and close to them is best, then little over them."""
        usage = self._ours.usage(found[1])
        return (True, usage) if usage <= 1 else (False, -usage)

    def _along_its_range(self) -> Step:
        """At the largest parameters that end within the limits, on the way from the smallest through those proposed."""
        space, (largest, smallest) = self._space, self._range
        # Where blocks that went left the method other parameters, the way leads through the middle of their ranges.
        known = space.keys() <= self.parameters.keys()
        middle = self.parameters if known else between(space, largest, smallest, 0.5)

        def at(way: float) -> dict[str, Any]:
            """0: the smallest, 1: the middle, 2: the largest."""
            towards = (smallest, 1 - way) if way < 1 else (largest, way - 1)
            return between(space, middle, *towards)

        return self._at(self._filled(at(farthest(lambda way: self._is_kept(at(way)), 0.0, 2.0))))

    def _filled(self, point: dict[str, Any]) -> dict[str, Any]:
        """With single parameters a choice larger, in turn, as long as the limits are kept: the way raised all at once.

        Some cost nothing: indices of 3 bits take 4 on a device.
        """
        space, largest = self._space, self._range[0]
        turns = deque(space)
        while turns:
            key = turns.popleft()
            more = {**point, key: one_nearer(space[key], point[key], largest[key])}
            if more != point and self._is_kept(more):
                point = more
                turns.append(key)
        return point

    def _is_kept(self, point: Mapping[str, Any]) -> bool:
        return self._ours.keeps(self._cost_at_the_end(self._at(point)))
