"""What lowering knows of a value before it is quantized again: real numbers, and how they come about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from pocketpipe.integer.fixed_point import on_grid
from pocketpipe.integer.graph import IntegerTensor, Shape

Function = Callable[[np.ndarray], np.ndarray]
"""Real numbers to real numbers, element by element, in float64."""


@dataclass(frozen=True)
class Constant:
    """Numbers that are known: a weight, a bias, an argument."""

    values: np.ndarray
    quantized: np.ndarray | None = None
    """The integers that they are in units of `scale`: those of the file, less the zero point."""
    scale: np.ndarray | None = None
    """One number, or one for each position along `axis`."""
    axis: int = 0


@dataclass(frozen=True)
class Real:
    """An integer tensor as real numbers, with functions applied to each of them, first one first."""

    tensor: str
    functions: tuple[Function, ...] = ()

    def then(self, function: Function) -> Real:
        """With one more function applied."""
        return replace(self, functions=(*self.functions, function))

    def applied(self, x: np.ndarray) -> np.ndarray:
        """All functions, one after the other."""
        for function in self.functions:
            x = function(x)
        return x


@dataclass(frozen=True)
class Target:
    """Where a sum goes: scale, zero point and range of the tensor that it is quantized to."""

    name: str
    scale: float
    zero_point: int
    low: int
    high: int

    @property
    def grid(self) -> tuple[float, int, int, int]:
        """Scale, zero point, smallest and largest integer."""
        return self.scale, self.zero_point, self.low, self.high

    def within(self, low: float, high: float) -> tuple[int, int]:
        """The integers of this target that stand for real numbers from `low` to `high`."""

        first, last = on_grid(np.array([low, high]), *self.grid)
        return int(first), int(last)

    def tensor(self, shape: Shape, low: int, high: int) -> IntegerTensor:
        """One on this grid whose integers lie in low..high."""
        return IntegerTensor(shape, self.scale, self.zero_point, low, high)


@dataclass(frozen=True)
class Sum:
    """A sum of products that waits for the scale of its result, and the range that an activation cuts it to."""

    shape: Shape
    """As it is stored: channels last if it is an image."""
    finish: Callable[[Target, int, int], None]
    """(target, low, high) -> appends the operator to the graph."""
    node: str
    image: bool = False
    """Whether it is stored channels last."""
    low: float = -np.inf
    high: float = np.inf
    with_affine: Callable[[np.ndarray, np.ndarray], Sum | None] | None = None
    """(factors, offsets), broadcast to the shape in the file -> the same sum times and plus them, if it can take them
    in. None where nothing can be taken in any more."""

    def clipped(self, low: float, high: float) -> Sum:
        """Cut to low..high after what it is cut to already: where the two ranges do not meet, one number is left."""
        least, most = (min(max(limit, low), high) for limit in (self.low, self.high))
        return replace(self, low=least, high=most, with_affine=None)

    def times(self, factor: float) -> Sum:
        """The same sum times a number above 0: as many steps on a grid that is finer by it."""

        def finish(target: Target, low: int, high: int) -> None:
            self.finish(replace(target, scale=target.scale / factor), low, high)

        return replace(self, finish=finish, low=self.low * factor, high=self.high * factor, with_affine=None)
