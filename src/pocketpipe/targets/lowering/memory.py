"""Static memory plan: each value between operators gets a place in one arena, as low as others of its time allow."""

from dataclasses import dataclass

from pocketpipe.buffers import ALIGNMENT as ALIGNMENT


@dataclass(frozen=True)
class Interval:
    """A value that lives from step `first` to step `last`, both included, and takes `size` bytes."""

    name: str
    size: int
    first: int
    last: int

    def meets(self, other: "Interval") -> bool:
        """Whether both live at the same time."""
        return self.first <= other.last and other.first <= self.last


def plan(intervals: list[Interval]) -> tuple[dict[str, int], int]:
    """(offset of each value, bytes of the arena): largest first, each at the lowest place free in its time.

    >>> plan([Interval("a", 64, 0, 1), Interval("b", 128, 1, 2), Interval("c", 64, 2, 3)])
    ({'b': 0, 'a': 128, 'c': 128}, 192)
    """
    offsets: dict[str, int] = {}
    placed: list[Interval] = []
    for interval in sorted(intervals, key=lambda interval: (-interval.size, interval.first, interval.name)):
        place = 0
        for other in sorted((o for o in placed if o.meets(interval)), key=lambda o: offsets[o.name]):
            if place + interval.size <= offsets[other.name]:
                break
            place = max(place, aligned(offsets[other.name] + other.size))
        offsets[interval.name] = place
        placed.append(interval)
    return offsets, max((aligned(offsets[i.name] + i.size) for i in placed), default=0)


def aligned(size: int) -> int:
    """`size` rounded up to the alignment."""
    return -(-size // ALIGNMENT) * ALIGNMENT
