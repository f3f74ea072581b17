"""What the chosen methods can reach at all, before any work is spent on a budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from pocketpipe.budget import KB, Budget
from pocketpipe.cost import Cost
from pocketpipe.doors import Value
from pocketpipe.errors import UserError
from pocketpipe.profile import NetworkProfile
from pocketpipe.search.space import Methods, as_proposed, shrunk

RELATIVE = {"speedup": "macs", "compression": "file_bytes"}
"""Terms of a budget in times smaller, and the cost that each is counted in."""
ABSOLUTE = ("macs", "file_bytes")
ON_DEVICE = {"flash_kb": "flash_bytes", "ram_kb": "peak_ram_bytes"}
"""Terms of a budget that name targets, and the predicted cost that each is held against."""


class Range(Value):
    """One requirement: asked (None = not asked), and what can be reached, in the requirement's own terms.

    `loosest` is the dense network (1.0, or its MACs or bytes), `tightest` every method at its smallest.
    """

    requirement: str
    asked: float | None
    loosest: float
    tightest: float
    feasible: bool = True
    """Whether what was asked can be reached."""

    @property
    def nearest(self) -> float | None:
        """What was asked, or the nearest value that can be reached."""
        return self.asked if self.feasible else self.tightest

    def __str__(self) -> str:
        if self.requirement in RELATIVE:
            least, most = sorted((1.0, self.tightest))
            return f"{self.requirement}: {self.asked:g}x asked, {least:g}..{most:g}x reachable"
        return f"{self.requirement}: {self.asked:,.10g} asked, {self.tightest:,.10g}..{self.loosest:,.10g} reachable"


class Reach(Value):
    """Reachable range of every requirement with `methods`, and the smallest network there is."""

    methods: tuple[str, ...]
    ranges: tuple[Range, ...]
    smallest: Cost

    @property
    def feasible(self) -> bool:
        """Whether all that was asked of the cost can be reached."""
        return all(entry.feasible for entry in self.ranges)

    @property
    def nearest(self) -> dict[str, float]:
        """The nearest feasible budget: what was asked, where it can be reached, else the tightest value.

        Terms of which nothing can be reached are left out.
        """
        return {
            entry.requirement: entry.nearest
            for entry in self.ranges
            if entry.nearest is not None and (entry.feasible or entry.requirement not in RELATIVE or entry.tightest > 1)
        }


def reach(profile: NetworkProfile, methods: Methods, budget: Budget) -> Reach:
    """How far `methods` get with this network. Predicted; the accuracy at that size is not looked at."""
    dense = profile.as_it_is()
    smallest = as_proposed(methods, shrunk(methods, profile, 1.0), profile).predict(profile).cost()
    relative = [_relative(term, cost, budget, dense, smallest) for term, cost in RELATIVE.items()]
    absolute = [_absolute(cost, budget, dense, smallest) for cost in ABSOLUTE if getattr(budget, cost) is not None]
    on_device = [
        _on_device(term, cost, target, limit, dense, smallest)
        for term, cost in ON_DEVICE.items()
        for target, limit in budget.by_target().get(term, {}).items()
        if getattr(dense, cost) is not None
    ]
    kinds = tuple(method.kind for method in methods)
    return Reach(methods=kinds, ranges=(*relative, *absolute, *on_device), smallest=smallest)


def refuse_impossible(profile: NetworkProfile, methods: Methods, budget: Budget) -> Reach:
    """The reach, if it holds the budget. Raises UserError: asked, reachable, nearest feasible budget, in one line."""
    found = reach(profile, methods, budget)
    if found.feasible:
        return found
    missed = [entry for entry in found.ranges if not entry.feasible]
    problems = "; ".join(f"budget.{entry}" for entry in missed)
    advice = "" if {"channels", "blocks"} & set(found.methods) else _what_to_add(missed, profile.cost(), found.smallest)
    nearest = ", ".join(f"{term}: {value:.10g}" for term, value in found.nearest.items())
    feasible = f"; nearest feasible budget: {{{nearest}}}" if nearest else ""
    raise UserError(f"{problems} with methods [{', '.join(found.methods)}]{advice}{feasible}{_left_whole(profile)}")


def _what_to_add(missed: Sequence[Range], dense: Cost, smallest: Cost) -> str:
    """To methods without channels and blocks."""
    if any(entry.requirement in ("speedup", "macs") for entry in missed) and smallest.macs >= dense.macs:
        return "; none of these methods saves MACs, add channels or blocks"
    if any(entry.requirement.startswith("ram_kb.") for entry in missed):
        return "; to save RAM, add channels or blocks"
    return ""


def _left_whole(profile: NetworkProfile) -> str:
    """What stands in the way: groups that cannot be thinned, with their nodes; empty if there are none."""
    rigid = [f"{group.members[0]} ({group.reason})" for group in profile.groups if not group.slimmable and group.reason]
    more = f" and {len(rigid) - 3} more" if len(rigid) > 3 else ""
    return f"; left whole: {'; '.join(rigid[:3])}{more}" if rigid else ""


def _relative(term: str, cost: str, budget: Budget, dense: Cost, smallest: Cost) -> Range:
    asked: float | None = getattr(budget, term)

    def kept(ratio: float) -> bool:
        return Budget.model_validate({term: ratio}).limits(dense).keeps(smallest)

    tightest = _largest_round(getattr(dense, cost) / max(1, getattr(smallest, cost)), kept)
    return Range(requirement=term, asked=asked, loosest=1.0, tightest=tightest, feasible=asked is None or kept(asked))


def _absolute(cost: str, budget: Budget, dense: Cost, smallest: Cost) -> Range:
    asked, tightest = getattr(budget, cost), getattr(smallest, cost)
    return Range(
        requirement=cost, asked=asked, loosest=getattr(dense, cost), tightest=tightest, feasible=asked >= tightest
    )


def _on_device(term: str, cost: str, target: str, limit: float, dense: Cost, smallest: Cost) -> Range:
    """In kB, rounded up to tenths."""
    loosest, tightest = (math.ceil(10 * getattr(each, cost) / KB) / 10 for each in (dense, smallest))
    kept = getattr(smallest, cost) <= limit * KB
    name = f"{term}.{target}"
    return Range(requirement=name, asked=limit, loosest=loosest, tightest=tightest, feasible=kept)


def _largest_round(ratio: float, kept: Callable[[float], bool]) -> float:
    """The largest ratio of three or so digits, as a person would write it, that is `kept`: 37.2, 4.18, 1.05.

    Rounding down is not quite enough: a budget's limit is a whole number of MACs or bytes, rounded down itself.
    """
    if ratio < 1:  # what is added takes more than is saved
        return math.floor(1000 * ratio) / 1000
    scale: int = 10 ** max(0, 3 - math.ceil(math.log10(ratio)))
    units = max(scale, math.floor(ratio * scale))
    while units > scale and not kept(units / scale):
        units -= 1
    return units / scale
