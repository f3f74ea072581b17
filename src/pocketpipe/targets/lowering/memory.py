"""Static memory plan: each value between operators gets a place in one arena, as low as others of its time allow."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np

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


Places = tuple[dict[str, int], int]
"""Offset of each value, bytes of the arena."""
MOST_TRIES, COMPARISONS = 64, 2**18
"""Of orders, and about how many pairs of values may be looked at for them: networks of thousands have fewer tries."""


def plan(intervals: list[Interval]) -> Places:
    """(offset of each value, bytes of the arena): each at the lowest place free in its time, largest or first ones
    first. While that leaves gaps, what ends highest has a place before all others in the next try; the best one counts.

    >>> plan([Interval("a", 64, 0, 1), Interval("b", 128, 1, 2), Interval("c", 64, 2, 3)])
    ({'b': 0, 'a': 128, 'c': 128}, 192)
    """
    least, found = _most_at_once(intervals), []
    for places in _tries(intervals):
        found.append(places)
        if places[1] == least:
            break
    return min(found, key=lambda places: places[1])


def _tries(intervals: list[Interval]) -> Iterator[Places]:
    most = max(1, min(MOST_TRIES, COMPARISONS // max(1, len(intervals)) ** 2))
    largest = sorted(intervals, key=lambda interval: (-interval.size, interval.first, interval.name))
    for order in (largest, sorted(largest, key=lambda interval: interval.first)):
        for _ in range(most):
            offsets, arena = _placed(order)
            yield offsets, arena
            highest = max(order, key=lambda interval: (offsets[interval.name] + interval.size, interval.name))
            order = [highest, *(interval for interval in order if interval is not highest)]


def _most_at_once(intervals: list[Interval]) -> int:
    """Bytes of the values of one step: no arena is smaller."""
    changes = [(interval.first, aligned(interval.size)) for interval in intervals]
    changes += [(interval.last + 1, -aligned(interval.size)) for interval in intervals]
    alive = accumulate(size for _, size in sorted(changes))  # what ends goes before what begins
    return max(alive, default=0)


def _placed(order: Iterable[Interval]) -> Places:
    """Each at the lowest place that those before it leave free in its time."""
    offsets: dict[str, int] = {}
    placed: list[Interval] = []
    for interval in order:
        place = 0
        for other in sorted((o for o in placed if o.meets(interval)), key=lambda o: offsets[o.name]):
            if place + interval.size <= offsets[other.name]:
                break
            place = max(place, aligned(offsets[other.name] + other.size))
        offsets[interval.name] = place
        placed.append(interval)
    return offsets, max((aligned(offsets[each.name] + each.size) for each in placed), default=0)


def aligned(size: int) -> int:
    """`size` rounded up to the alignment."""
    return -(-size // ALIGNMENT) * ALIGNMENT


@dataclass
class Blob:
    """Constants, each aligned; equal ones lie there once."""

    content: bytearray = field(default_factory=bytearray)
    known: dict[bytes, int] = field(default_factory=dict)

    def place(self, values: np.ndarray) -> int:
        """The byte from which on an array lies there."""
        data = np.ascontiguousarray(values).tobytes()
        if data not in self.known:
            self.known[data] = len(self.content)
            self.content += data.ljust(aligned(len(data)), b"\0")
        return self.known[data]


@dataclass(frozen=True)
class Use:
    """What one step reads and writes; `moves_nothing`: its output lies where its one input does (a reshape)."""

    inputs: Sequence[str]
    output: str
    moves_nothing: bool = False


@dataclass(frozen=True)
class Lifetimes:
    """From which step to which the tensors of a network live."""

    steps: dict[str, tuple[int, int]]
    """First and last step of each tensor that has a place of its own."""
    same: dict[str, str]
    """Other tensors, and where they lie."""

    @classmethod
    def of(cls, uses: Iterable[Use], input_: str, output: str) -> "Lifetimes":
        """The network's input lives from the start, its output beyond the end."""
        same: dict[str, str] = {}
        steps = {input_: (0, 0)}
        index = -1
        for index, use in enumerate(uses):
            if use.moves_nothing:
                same[use.output] = same.get(use.inputs[0], use.inputs[0])
            for name in (same.get(name, name) for name in (*use.inputs, use.output)):
                steps[name] = (steps.get(name, (index, index))[0], index)
        end = same.get(output, output)
        steps[end] = (steps[end][0], index + 1)
        return cls(steps, same)

    def offsets(self, places: dict[str, int]) -> dict[str, int]:
        """Of every tensor, from those of the tensors with places of their own."""
        return {name: places[name] for name in self.steps} | {name: places[end] for name, end in self.same.items()}
