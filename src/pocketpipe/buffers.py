"""Axes whose lengths follow groups of channels, and the tensors that are stored while a network runs."""

from collections.abc import Callable, Iterable, Mapping
from math import prod

from pocketpipe.doors import Value

ALIGNMENT = 64
"""Bytes to whose multiple a buffer is rounded up: a cache line, and the widest vector register."""

WORD = 4
"""Bytes."""

Widths = Mapping[str, int]
"""Channels kept in each group, by the group's name; a group that is not named keeps all."""


class Axis(Value):
    """Length of one axis: `fixed` positions plus, for each group, `positions` a channel.

    >>> Axis(fixed=2, groups={"stem": 16}).size({"stem": 3})
    50
    """

    fixed: int = 0
    groups: dict[str, int] = {}

    def size(self, widths: Widths) -> int:
        """Positions left when each group is as wide as `widths` says."""
        if not self.groups:
            return self.fixed
        return self.fixed + sum(positions * widths[group] for group, positions in self.groups.items())


class Buffer(Value):
    """A tensor that is stored while one example is computed. Its place in a list is the step at which it is made."""

    axes: tuple[Axis, ...]
    """Without the batch; those that no group changes as one."""
    last: int
    """The last step at which it is read; the list's length for the network's output."""

    def elements(self, widths: Widths) -> int:
        """How many numbers it holds."""
        return prod(axis.size(widths) for axis in self.axes)


class MadeInside(Value):
    """The buffers `first` to `end` (excluded) of a list are made in one block, which reads buffer `entry` alone."""

    entry: int
    first: int
    end: int


Buffers = tuple[Buffer, ...]


def peak_bytes(buffers: Buffers, widths: Widths, element_bytes: int) -> int:
    """The most that is alive at one step: what a plan of the memory cannot get below.

    >>> chain = (Buffer(axes=(Axis(fixed=100),), last=1), Buffer(axes=(Axis(fixed=64),), last=2))
    >>> peak_bytes(chain, {}, 1)  # 100 bytes take 128
    192
    """
    ending: dict[int, int] = {}
    alive = peak = 0
    for step, buffer in enumerate(buffers):
        taken = -(-buffer.elements(widths) * element_bytes // ALIGNMENT) * ALIGNMENT
        alive += taken
        peak = max(peak, alive)
        ending[buffer.last] = ending.get(buffer.last, 0) + taken
        alive -= ending.pop(step, 0)
    return peak


def end_bytes(buffers: Buffers, widths: Widths, element_bytes: int) -> int:
    """What the example that enters and the outputs that leave take where the caller keeps them, in whole words."""
    ends = (buffer for step, buffer in enumerate(buffers) if step == 0 or buffer.last == len(buffers))
    return sum(-(-buffer.elements(widths) * element_bytes // WORD) * WORD for buffer in ends)


def without_block(buffers: Buffers, gone: MadeInside) -> tuple[Buffers, Callable[[int], int]]:
    """(the buffers when a block is taken out and its input stands for its output, a step before -> the same now)."""

    def now(step: int) -> int:
        if step < gone.first:
            return step
        return gone.entry if step < gone.end else step - (gone.end - gone.first)

    end = max((buffer.last for buffer in buffers[gone.first : gone.end]), default=0)
    left = []
    for index, buffer in enumerate(buffers):
        if gone.first <= index < gone.end:
            continue
        last = buffer.last
        if index == gone.entry:
            last = end if gone.first <= last < gone.end else max(last, end)
        left.append(buffer.model_copy(update={"last": now(last)}))
    return tuple(left), now


def moved(inside: MadeInside, now: Callable[[int], int]) -> MadeInside:
    """What `inside` says after another block went."""
    size = inside.end - inside.first
    return MadeInside(entry=now(inside.entry), first=now(inside.first), end=now(inside.first) + size)


def with_axes(buffers: Buffers, change: Callable[[Axis], Axis]) -> Buffers:
    """The same with every axis changed; axes that depend on no group any more are one."""
    return tuple(buffer.model_copy(update={"axes": folded(map(change, buffer.axes))}) for buffer in buffers)


def folded(axes: Iterable[Axis]) -> tuple[Axis, ...]:
    """Axes that change with groups, after one as long as all others together.

    >>> folded([Axis(fixed=4), Axis(fixed=1, groups={"a": 1}), Axis(fixed=8)])
    (Axis(fixed=32, groups={}), Axis(fixed=1, groups={'a': 1}))
    """
    given = tuple(axes)
    return (Axis(fixed=prod(axis.fixed for axis in given if not axis.groups)), *(axis for axis in given if axis.groups))
