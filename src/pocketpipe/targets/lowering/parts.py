"""Parts: how the work of one kernel is cut for several threads, along its rows, its tiles of channels or its groups.

No sum is cut, and none is taken in another order: results are the same to the bit, however many threads there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import accumulate
from typing import Protocol

from tvm import tirx
from tvm.tirx import PrimFunc, Stmt, Var

from pocketpipe.targets.lowering.loops import Index, loop
from pocketpipe.targets.lowering.tiling import ChannelTile

MOVED = 4
"""Products that take about as long as reading or writing one number."""


class Axis(Enum):
    """Along what a kernel is cut. In this order where several cut it as evenly."""

    ROWS = "rows of the output"
    TILES = "tiles of channels"
    GROUPS = "groups"


@dataclass(frozen=True)
class Cut:
    """A kernel's work as `units` along `axis`, of which a call computes some."""

    axis: Axis
    units: int

    def parts(self, threads: int) -> int:
        """Into how many calls it is cut for so many threads."""
        return min(threads, self.units)


@dataclass(frozen=True)
class Kernel:
    """A function of the object file. One that is cut takes the first unit and one past the last behind its pointers."""

    function: PrimFunc
    cut: Cut | None = None
    packed: tuple[ChannelTile, ...] | None = None
    """The tiles in whose order it reads its weight (`packing`); None if that lies as it came."""

    @property
    def units(self) -> int:
        """Of its cut; 0 if it is not cut."""
        return 0 if self.cut is None else self.cut.units

    def parts(self, threads: int) -> int:
        """Among so many threads; 1 if it is not cut."""
        return 1 if self.cut is None else self.cut.parts(threads)


def work(products: int, moved: int) -> int:
    """How much a kernel has to do: products, and numbers that it reads or writes, priced in products."""
    return products + MOVED * moved


def evenly(axes: dict[Axis, int], threads: int) -> Cut | None:
    """The axis, of so many units each, on which the largest part is smallest; None if there is nothing to cut.

    >>> evenly({Axis.ROWS: 4, Axis.TILES: 8, Axis.GROUPS: 1}, threads=7)
    Cut(axis=<Axis.ROWS: 'rows of the output'>, units=4)
    >>> evenly({Axis.ROWS: 1, Axis.TILES: 2, Axis.GROUPS: 1}, threads=2)
    Cut(axis=<Axis.TILES: 'tiles of channels'>, units=2)
    """
    axis = min(Axis, key=lambda axis: -(-axes[axis] // threads) / axes[axis])
    return Cut(axis, axes[axis]) if axes[axis] > 1 and threads > 1 else None


class Repeated(Protocol):
    """Tiles in a row that are one loop."""

    @property
    def repeats(self) -> int:
        """How many."""


def numbers_of_first(tiles: Sequence[Repeated]) -> list[int]:
    """The number of the first tile of each entry."""
    return [0, *accumulate(tile.repeats for tile in tiles)][:-1]


class Part:
    """What a call of a kernel computes: units from `first` up to `last` of the axis that is cut, all of the others."""

    def __init__(self, cut: Cut | None) -> None:
        self.axis = None if cut is None else cut.axis
        self.first, self.last = Var("first", "int32"), Var("last", "int32")

    @property
    def parameters(self) -> list[Var]:
        """Of the kernel, behind its buffers."""
        return [] if self.axis is None else [self.first, self.last]

    def loop(self, axis: Axis, name: str, start: int, count: int, body: Callable[[Index], Stmt]) -> Stmt:
        """`body` at each index below `count` whose unit, `start` plus the index, belongs to this part."""
        if axis is not self.axis:
            return loop(name, count, body)
        first = tirx.max(0, self.first - start)
        last = tirx.min(count, self.last - start)
        return loop(name, tirx.max(0, last - first), lambda index: body(first + index))

    def range(self, axis: Axis, count: int) -> tuple[Index, Index]:
        """(first, how many) of the units that belong to this part."""
        return (self.first, self.last - self.first) if axis is self.axis else (0, count)
