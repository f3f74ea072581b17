"""Ways to given widths: in portions of even worth, or layer by layer. Pure functions of a profile."""

from __future__ import annotations

from collections.abc import Mapping

from pocketpipe.budget import farthest
from pocketpipe.profile import NetworkProfile


def in_portions(profile: NetworkProfile, widths: Mapping[str, int], count: int) -> list[dict[str, int]]:
    """Widths on the way to `widths`, the last ones these: each portion makes the MACs smaller by the same factor.

    Every group shrinks by one power of its own ratio. Portions that change nothing are left out.
    """
    before, after = profile.cost().macs, profile.cost(widths).macs
    channels = profile.widths()
    portions: list[dict[str, int]] = []
    reached = {name: channels[name] for name in widths}
    for portion in range(1, count + 1):
        wanted = before * (after / before) ** (portion / count)
        on_the_way = dict(widths) if portion == count else _at_macs(profile, widths, wanted)
        if on_the_way != reached:
            portions.append(on_the_way)
            reached = on_the_way
    return portions


def _at_macs(profile: NetworkProfile, widths: Mapping[str, int], macs: float) -> dict[str, int]:
    """The first widths on the way that have at most `macs`."""
    share = farthest(lambda share: profile.cost(_on_the_way(profile, widths, share)).macs <= macs, 1.0, 0.0)
    return _on_the_way(profile, widths, share)


def _on_the_way(profile: NetworkProfile, widths: Mapping[str, int], share: float) -> dict[str, int]:
    channels = profile.widths()
    return {name: round(channels[name] * (width / channels[name]) ** share) for name, width in widths.items()}


def by_groups(profile: NetworkProfile, widths: Mapping[str, int], every: int) -> list[dict[str, int]]:
    """`widths` in pieces: the next `every` groups, in graph order, of those that they make thinner."""
    channels = profile.widths()
    thinned = [group.name for group in profile.groups if widths.get(group.name, channels[group.name]) < group.channels]
    return [{name: widths[name] for name in thinned[start : start + every]} for start in range(0, len(thinned), every)]
