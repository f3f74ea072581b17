"""Where to cut off a tensor's values before they are laid on a uniform grid: four rules for one question.

All work on a sample of values with counts and return an interval (low, high) that contains 0. A grid of `steps` steps
over it has its zero moved to the nearest grid point, as an integer zero point does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

Ranges = Literal["minmax", "percentile", "mse", "entropy"]
Interval = tuple[float, float]

TAIL = 1e-4
"""`percentile` cuts off at most this share of the values at each end: the 99.99th percentile, and the 0.01th."""

OCTAVES, PER_OCTAVE, FINER = 10, 6, 8
"""`mse` tries ends at 2^(-k/6) of the extreme values down to 2^-10, then eighths of these steps around the best."""

BINS, STRIDE = 4096, 16
"""`entropy` counts in this many bins (16 for a level at 8 bits, as TensorRT), and moves an end by so many at a time."""


@dataclass(frozen=True)
class Sample:
    """Values of a tensor, each with how often it occurs, and its exact extremes, extended to contain 0."""

    values: np.ndarray
    """Ascending."""
    counts: np.ndarray
    low: float
    high: float

    @classmethod
    def of(cls, values: np.ndarray, counts: np.ndarray, low: float, high: float) -> Sample:
        """The sample of `values` (n,) in any order."""
        order = np.argsort(values, kind="stable")
        return cls(values[order].astype(float), counts[order].astype(float), min(low, 0.0), max(high, 0.0))


def minmax(sample: Sample, steps: int) -> Interval:
    """All values lie inside."""
    return sample.low, sample.high


def percentile(sample: Sample, steps: int) -> Interval:
    """At most `TAIL` of the values lie outside at each end (Wu et al. 2020, arXiv 2004.09602, section 3).

    The ends are values of the sample: the inverse of its distribution function, without interpolation.
    """
    cumulated = np.cumsum(sample.counts)
    low, high = (sample.values[np.searchsorted(cumulated, share * cumulated[-1])] for share in (TAIL, 1 - TAIL))
    return min(float(low), 0.0), max(float(high), 0.0)


def mse(sample: Sample, steps: int) -> Interval:
    """The grid whose nearest points have the smallest expected squared distance from the values.

    Both ends are searched together, which also covers tensors of both signs (Nagel et al. 2021, arXiv 2106.08295,
    section 3.1, equation 8).
    """
    exponents = np.arange(OCTAVES * PER_OCTAVE + 1) / PER_OCTAVE
    best = _best_ends(sample, steps, exponents, exponents)
    offsets = np.arange(-FINER, FINER + 1) / (FINER * PER_OCTAVE)
    below, above = (np.maximum(exponent + offsets, 0.0) for exponent in best)
    below, above = (2.0**-exponent for exponent in _best_ends(sample, steps, below, above))
    return float(sample.low * below), float(sample.high * above)


def _best_ends(sample: Sample, steps: int, below: np.ndarray, above: np.ndarray) -> tuple[float, float]:
    """The exponents of the low and the high end with the least error, of all combinations."""
    below, above = (grid if end else grid[:1] for grid, end in ((below, sample.low), (above, sample.high)))
    first, second = (grid.ravel() for grid in np.meshgrid(below, above, indexing="ij"))
    errors = squared_errors(sample, sample.low * 2.0**-first, sample.high * 2.0**-second, steps)
    best = int(errors.argmin())
    return float(first[best]), float(second[best])


def squared_errors(sample: Sample, lows: np.ndarray, highs: np.ndarray, steps: int) -> np.ndarray:
    """Sum of squared rounding and clipping errors of the sample on the grid of each interval (n,).

    The values between the middles of neighbouring steps all go to one grid point, so three cumulated sums suffice.
    """
    sums = [
        np.concatenate([[0.0], np.cumsum(sample.counts * power)])
        for power in (np.ones_like(sample.values), sample.values, sample.values**2)
    ]
    scales = ((highs - lows) / steps)[:, None]
    points = (np.arange(steps + 1) - np.round(-lows[:, None] / scales)) * scales
    inner = np.searchsorted(sample.values, (points[:, 1:] + points[:, :-1]) / 2)
    edges = np.pad(inner, ((0, 0), (1, 1)), constant_values=((0, 0), (0, len(sample.values))))
    number, total = (np.diff(cumulated[edges], axis=1) for cumulated in sums[:2])
    errors: np.ndarray = sums[2][-1] + (points * (points * number - 2 * total)).sum(1)
    return errors


def entropy(sample: Sample, steps: int) -> Interval:
    """The interval whose coarse histogram loses least of the fine one, by Kullback-Leibler divergence.

    Migacz 2017, "8-bit Inference with TensorRT": what lies outside counts at the outermost bins, and the `steps + 1`
    levels are spread over the bins that are not empty. That rule moves one end; for values of both signs the ends are
    moved in turn, each to its best place while the other stays, until both stay. Exact zeros are left out: every grid
    has them.
    """
    present = sample.values != 0
    counts, edges = np.histogram(
        sample.values[present], BINS, (sample.low, sample.high), weights=sample.counts[present]
    )
    zero = int(np.searchsorted(edges, 0.0, side="right")) - 1
    starts = range(0, zero + 1, STRIDE) if sample.low < 0 else range(1)
    ends = range(BINS, zero, -STRIDE) if sample.high > 0 else range(BINS, BINS + 1)
    window, last = (0, BINS), None
    while window != last:
        last = window
        window = _least_divergent(counts, [(window[0], end) for end in ends], steps + 1) or window
        window = _least_divergent(counts, [(start, window[1]) for start in starts], steps + 1) or window
    return min(float(edges[window[0]]), 0.0), max(float(edges[window[1]]), 0.0)


def _least_divergent(counts: np.ndarray, windows: list[tuple[int, int]], levels: int) -> tuple[int, int] | None:
    """The window with the least divergence, the widest of several; None if none has as many bins as levels."""
    wide = [window for window in windows if window[1] - window[0] >= levels]
    return min(wide, key=lambda window: divergence(counts, window[0], window[1], levels)) if wide else None


def divergence(counts: np.ndarray, start: int, end: int, levels: int) -> float:
    """KL divergence of the histogram clipped to bins `start` to `end` from the same at `levels` levels, in nats.

    Infinite where clipping puts values on bins of a level that is empty without them.
    """
    inside = counts[start:end].astype(float)
    clipped = inside.copy()
    clipped[0] += counts[:start].sum()
    clipped[-1] += counts[end:].sum()
    filled = clipped > 0
    level = np.arange(end - start) * levels // (end - start)
    mass = np.bincount(level, inside, levels)
    share = np.divide(mass, np.bincount(level[filled], minlength=levels), where=mass > 0, out=np.zeros(levels))
    spread = share[level][filled]
    if not spread.all():
        return float("inf")
    p, q = clipped[filled] / clipped.sum(), spread / spread.sum()
    return float((p * np.log(p / q)).sum())


RULES: dict[Ranges, Callable[[Sample, int], Interval]] = {
    "minmax": minmax,
    "percentile": percentile,
    "mse": mse,
    "entropy": entropy,
}
