"""Which weights of a layer stay: the largest of all, or the largest n of each m neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod
from typing import Protocol

import torch
from torch import Tensor

Shape = tuple[int, ...]
ROUNDING = 1e-9
"""Slack for products such as 0.29 * 100 = 28.999999999999996."""


class Pattern(Protocol):
    """Where zeros may lie."""

    def kept(self, shape: Shape, density: float) -> int:
        """How many weights of a layer of this shape stay at this density; at least one."""

    def mask(self, weight: Tensor, density: float) -> Tensor:
        """Bool, of the weight's shape: True for the `kept` weights of largest magnitude; of equal ones the first."""


@dataclass(frozen=True)
class Unstructured:
    """Zeros anywhere. density * weights, rounded to the nearest whole number (a half up), stay.

    >>> Unstructured().kept((3, 5), 0.5)
    8
    """

    def kept(self, shape: Shape, density: float) -> int:
        """See `Pattern`."""
        return max(1, int(density * prod(shape) + 0.5 + ROUNDING))

    def mask(self, weight: Tensor, density: float) -> Tensor:
        """See `Pattern`."""
        return largest(weight.detach().abs().flatten(), self.kept(tuple(weight.shape), density)).view(weight.shape)


@dataclass(frozen=True)
class NOfM:
    """Of each m weights next to each other along `axis`, n stay; counted from the first.

    The remainder rule: r weights that are left over at the end of an axis keep n / m of them, rounded up, so that
    an axis of one position (depthwise convolutions) stays dense. At a higher density than n / m more of each m stay.

    >>> NOfM(n=2, m=4, axis=1).kept((10, 7, 3, 3), 0.5)  # 2 of 4 and 2 of 3
    360
    """

    n: int
    m: int
    axis: int

    def kept(self, shape: Shape, density: float) -> int:
        """See `Pattern`."""
        whole, rest = divmod(shape[self.axis], self.m)
        of_m = self._of_m(density)
        return prod(shape) // shape[self.axis] * (whole * of_m + self._of_rest(rest, of_m))

    def mask(self, weight: Tensor, density: float) -> Tensor:
        """See `Pattern`."""
        of_m = self._of_m(density)
        lines = weight.detach().abs().movedim(self.axis, -1)
        whole = lines.shape[-1] // self.m * self.m
        groups, rest = lines[..., :whole], lines[..., whole:]
        of_groups = largest(groups.reshape(*groups.shape[:-1], -1, self.m), of_m)
        parts = [of_groups.flatten(-2), largest(rest, self._of_rest(rest.shape[-1], of_m))]
        return torch.cat(parts, -1).movedim(-1, self.axis)

    def _of_m(self, density: float) -> int:
        return min(self.m, max(self.n, ceil(density * self.m - ROUNDING)))

    def _of_rest(self, rest: int, of_m: int) -> int:
        return ceil(rest * of_m / self.m)


def largest(scores: Tensor, count: int) -> Tensor:
    """Bool, of the shape of `scores`: True for the `count` highest along the last axis; of equal ones the first.

    >>> largest(torch.tensor([1.0, 3.0, 3.0, 2.0]), 1).tolist()
    [False, True, False, False]
    """
    order = torch.sort(scores, dim=-1, descending=True, stable=True).indices[..., :count]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, order, True)


def parse_n_of_m(pattern: str) -> tuple[int, int]:
    """(n, m) of "n:m". Raises ValueError for anything else.

    >>> parse_n_of_m("2:4")
    (2, 4)
    """
    n, colon, m = pattern.partition(":")
    if not (colon and n.isdecimal() and m.isdecimal() and 1 <= int(n) <= int(m)):
        raise ValueError(f"{pattern!r} is no pattern; use unstructured, or n:m such as 2:4 (n of each m weights stay)")
    return int(n), int(m)
