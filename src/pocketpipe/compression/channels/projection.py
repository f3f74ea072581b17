"""From keep ratios to channel counts on a budget. Pure functions of profile, ratios and limits."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from pocketpipe.budget import Limits, farthest
from pocketpipe.cost import Cost
from pocketpipe.errors import UserError
from pocketpipe.profile import ChannelGroup, NetworkProfile

CLOSE_ENOUGH = 0.98
"""Share of the binding limit from which on a setting is not worth changing."""
SETTINGS = 2000
"""How many settings are tried at most to come closer than that."""


@dataclass(frozen=True)
class AllowedWidths:
    """Widths that a group may have: multiples of `multiple`, at least `minimum` and `smallest_ratio` of it, or whole.

    >>> grid = AllowedWidths(minimum=1, multiple=4, smallest_ratio=0.1)
    >>> grid.nearest(6.1, 10), grid.nearest(0.0, 10), grid.nearest(10.0, 10)
    (8, 4, 10)
    >>> grid.wider(8, 10), grid.narrower(10, 10), grid.narrower(4, 10)
    (10, 8, 4)
    """

    minimum: int
    multiple: int
    smallest_ratio: float

    def smallest(self, channels: int) -> int:
        """The fewest channels that a group of `channels` may be left with."""
        least = max(self.minimum, ceil(self.smallest_ratio * channels - 1e-9), 1)
        return min(channels, ceil(least / self.multiple) * self.multiple)

    def nearest(self, wanted: float, channels: int) -> int:
        """The allowed width nearest to `wanted`."""
        on_grid = int(wanted / self.multiple + 0.5) * self.multiple
        candidates = (on_grid, channels) if on_grid < channels else (channels,)
        return max(self.smallest(channels), min(candidates, key=lambda width: abs(width - wanted)))

    def wider(self, width: int, channels: int) -> int:
        """The next larger width; `channels` if there is none."""
        return min(channels, (width // self.multiple + 1) * self.multiple)

    def narrower(self, width: int, channels: int) -> int:
        """The next smaller width; the smallest if there is none."""
        return max(self.smallest(channels), ceil(width / self.multiple - 1) * self.multiple)


class Priced:
    """What settings of one profile cost; a bisection and a walk among neighbours come back to the same ones."""

    def __init__(self, profile: NetworkProfile) -> None:
        self.profile = profile
        self._known: dict[frozenset[tuple[str, int]], Cost] = {}

    def __call__(self, widths: Mapping[str, int]) -> Cost:
        """See `cost_of`."""
        setting = frozenset(widths.items())
        if setting not in self._known:
            self._known[setting] = cost_of(self.profile, widths)
        return self._known[setting]


def cost_of(profile: NetworkProfile, widths: Mapping[str, int]) -> Cost:
    """Predicted cost of the network that is left: what is not zero in a sparse layer may all be among that."""
    sparse = any(layer.density < 1 for layer in profile.layers)
    return profile.narrowed(widths).cost() if sparse else profile.cost(widths)  # the same, and quicker, where none is


def projected(
    profile: NetworkProfile, ratios: Mapping[str, float], grid: AllowedWidths, limits: Limits
) -> dict[str, int]:
    """Widths that keep `limits` and are as close under them as channels allow, in the proportions of `ratios`.

    All ratios are scaled by one factor; what rounding leaves over is filled up channel by channel where the scaled
    ratio is missed most; if more than 2 % is still unused, settings nearby are tried. Raises UserError, with what
    can be reached, if not even the smallest widths keep the limits.
    """
    groups = [group for group in profile.groups if group.name in ratios]
    refuse_unreachable(profile, groups, grid, limits)
    priced = Priced(profile)
    factor = _largest_factor(priced, groups, ratios, grid, limits)
    wanted = {group.name: factor * ratios[group.name] * group.channels for group in groups}
    widths = _filled(priced, groups, _scaled(groups, ratios, grid, factor), wanted, grid, limits)
    nearby = _nearby(priced, groups, widths, grid, limits)
    return _filled(priced, groups, nearby, wanted, grid, limits)


def refuse_unreachable(
    profile: NetworkProfile, groups: list[ChannelGroup], grid: AllowedWidths, limits: Limits
) -> None:
    """Raise UserError, with what can be reached, if the smallest widths of `groups` do not keep `limits`."""
    smallest = cost_of(profile, {group.name: grid.smallest(group.channels) for group in groups})
    if not limits.keeps(smallest):
        reachable = profile.cost().ratio_to(smallest)
        raise UserError(
            f"channels: the smallest widths: {limits.over(smallest)}; reachable: speedup {reachable['speedup']:.4g}, "
            f"compression {reachable['compression']:.4g}"
        )


def _scaled(
    groups: list[ChannelGroup], ratios: Mapping[str, float], grid: AllowedWidths, factor: float
) -> dict[str, int]:
    return {group.name: grid.nearest(factor * ratios[group.name] * group.channels, group.channels) for group in groups}


def _largest_factor(
    priced: Priced, groups: list[ChannelGroup], ratios: Mapping[str, float], grid: AllowedWidths, limits: Limits
) -> float:
    """The largest common factor on the ratios that keeps the limits."""
    largest = 1.0 / min((ratios[group.name] for group in groups), default=1.0)
    return farthest(lambda factor: limits.keeps(priced(_scaled(groups, ratios, grid, factor))), 0.0, largest)


def _filled(
    priced: Priced,
    groups: list[ChannelGroup],
    widths: dict[str, int],
    wanted: Mapping[str, float],
    grid: AllowedWidths,
    limits: Limits,
) -> dict[str, int]:
    """`widths` with channels added, first where most are missing in proportion, until none fits."""
    open_groups = list(groups)
    while open_groups:
        group = max(open_groups, key=lambda g: (wanted[g.name] - widths[g.name]) / g.channels)
        wider = {**widths, group.name: grid.wider(widths[group.name], group.channels)}
        if wider != widths and limits.keeps(priced(wider)):
            widths = wider
        else:
            open_groups.remove(group)  # costs only grow from here: what does not fit now never will
    return widths


def _nearby(
    priced: Priced,
    groups: list[ChannelGroup],
    widths: dict[str, int],
    grid: AllowedWidths,
    limits: Limits,
) -> dict[str, int]:
    """The setting within 2 % of the limit that is the fewest steps away from `widths`; else the closest to it found.

    Only small networks come here, where one channel is more than 2 %.
    """
    if _memory_stands_in_the_way(priced, groups, widths, grid, limits):
        return widths
    queue, seen = deque([widths]), {tuple(widths.values())}
    best = widths
    while queue and not _close_enough(priced, groups, best, limits):
        setting = queue.popleft()
        cost = priced(setting)
        if limits.keeps(cost) and limits.usage(cost) > limits.usage(priced(best)):
            best = setting
        for group in groups:
            width = setting[group.name]
            for other in (grid.wider(width, group.channels), grid.narrower(width, group.channels)):
                neighbour = {**setting, group.name: other}
                if tuple(neighbour.values()) not in seen and len(seen) < SETTINGS:
                    seen.add(tuple(neighbour.values()))
                    queue.append(neighbour)
    return best


def _memory_stands_in_the_way(
    priced: Priced, groups: list[ChannelGroup], widths: dict[str, int], grid: AllowedWidths, limits: Limits
) -> bool:
    """Whether RAM alone keeps every group from being wider: it goes by the largest layers, and takes no exchange."""
    memory = limits.only("peak_ram_bytes")
    wider = [{**widths, group.name: grid.wider(widths[group.name], group.channels)} for group in groups]
    changed = [setting for setting in wider if setting != widths]
    return bool(memory.given()) and not any(memory.keeps(priced(setting)) for setting in changed)


def _close_enough(priced: Priced, groups: list[ChannelGroup], widths: dict[str, int], limits: Limits) -> bool:
    whole = all(widths[group.name] == group.channels for group in groups)
    return whole or limits.usage(priced(widths)) >= CLOSE_ENOUGH
