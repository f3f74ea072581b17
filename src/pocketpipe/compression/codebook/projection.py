"""From bits of layers to bits on a budget. Pure functions of profile, bits and limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pocketpipe.budget import Limits
from pocketpipe.errors import UserError
from pocketpipe.profile import NetworkProfile

FEWEST, MOST = 1, 8
"""Bits of an index."""

Bits = Mapping[str, int]
Predict = Callable[[Bits], NetworkProfile]


def refuse_unreachable(profile: NetworkProfile, smallest: NetworkProfile, limits: Limits) -> None:
    """Raise UserError if not even `smallest` (what `profile` becomes with the fewest bits) keeps `limits`."""
    before, after = profile.cost(), smallest.cost()
    stays = limits.only("macs", "peak_ram_bytes")
    if not stays.keeps(before):
        raise UserError(
            f"codebook: {stays.over(before)}, and stay as they are: shared values save bytes, not MACs or RAM; put "
            "channels or blocks before it, or leave that out of the budget"
        )
    if not limits.keeps(after):
        raise UserError(
            f"codebook: with {FEWEST} bit a weight {limits.over(after)}; "
            f"reachable: compression {before.ratio_to(after)['compression']:.4g}"
        )


def projected(
    bits: Bits, elements: Mapping[str, int], predict: Predict, limits: Limits, *, most: Mapping[str, int]
) -> dict[str, int]:
    """Bits that keep the limit on bytes, as close under it as single bits of layers come.

    Over it, the layer whose indices take the most bytes loses a bit, until it is kept. Then layers get bits back as
    long as they fit and have at most `most`, first those with the fewest bits, of these the smallest: there a bit
    costs least.
    """
    found = dict(bits)
    while not limits.keeps(predict(found).cost()):
        layer = max((name for name in found if found[name] > FEWEST), key=lambda name: elements[name] * found[name])
        found[layer] -= 1
    waiting = [name for name in found if found[name] < most[name]]
    while waiting:
        layer = min(waiting, key=lambda name: (found[name], elements[name]))
        more = {**found, layer: found[layer] + 1}
        if limits.keeps(predict(more).cost()):
            found = more
        if more != found or found[layer] == most[layer]:
            waiting.remove(layer)
    return found
