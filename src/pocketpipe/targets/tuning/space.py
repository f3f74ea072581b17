"""Schedules worth trying: tiles of other sizes, then orders and unrolling of the best of them."""

import random
from collections.abc import Iterator
from dataclasses import replace

from pocketpipe.targets.lowering.schedule import Order, Schedule

UNROLLED = (1, 2, 4)


def tiles(rule: Schedule, most: tuple[int, range, int], seed: str) -> list[Schedule]:
    """All sizes of a tile that fit the registers and use at least half as many as the rule's, without that; shuffled.

    `most`: pixels, numbers of registers of channels, registers of sums.

    >>> found = tiles(Schedule(4, 2), (8, range(1, 3), 12), seed="any")
    >>> sorted((s.pixels, s.vectors) for s in found)
    [(2, 2), (3, 2), (4, 1), (5, 1), (5, 2), (6, 1), (6, 2), (7, 1), (8, 1)]
    """
    pixels, vectors, registers = most
    found = [
        replace(rule, pixels=p, vectors=v)
        for p in range(1, pixels + 1)
        for v in vectors
        if rule.pixels * rule.vectors <= 2 * p * v and p * v <= registers and (p, v) != (rule.pixels, rule.vectors)
    ]
    random.Random(seed).shuffle(found)
    return found


def variants(best: Schedule) -> Iterator[Schedule]:
    """The same tile in another order, or unrolled otherwise."""
    for unroll in UNROLLED:
        for order in Order:
            schedule = replace(best, order=order, unroll=unroll)
            if schedule != best:
                yield schedule
