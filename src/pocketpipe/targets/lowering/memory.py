"""Static memory plan: each value between operators gets a place in one arena, as low as others of its time allow."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

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
