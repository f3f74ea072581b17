"""Ranges of tensors, from which the scales of a uniform grid follow.

Weights lie on a signed symmetric grid of narrow range, -(2^(b-1) - 1) to 2^(b-1) - 1, one scale for each output
channel. Activations lie on an asymmetric one, -2^(b-1) to 2^(b-1) - 1, with an integer zero point, so that 0 is exact
(Jacob et al. 2018, arXiv 1712.05877, section 2.1).
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pocketpipe.compression.quantization.clipping import RULES, Interval, Ranges, Sample
from pocketpipe.errors import UserError

HALF = 4096
"""Bins of an observer's histogram on each side of 0: 8 or more for one step of an 8-bit grid."""

SMALLEST = 2.0**-100
"""Extremes below this are zero."""

NARROWEST = 2.0**-12
"""The least scale of a weight's channel, relative to the largest one of the weight."""

SHRINKS = 100
"""`weight_scales` by mse tries hundredths of each channel's largest weight."""


def weight_limit(bits: int) -> int:
    """The largest integer of a weight's grid; the smallest is its negative. Raises ValueError outside 2 to 8 bits.

    >>> weight_limit(8), weight_limit(2)
    (127, 1)
    """
    if not 2 <= bits <= 8:
        raise ValueError(f"{bits} bits: 2 to 8 are possible")
    return (1 << bits - 1) - 1


class Observer:
    """A histogram of all values that it is shown, whose range grows with them.

    Bins are as wide as a power of two. Where the range grows, bins are merged in pairs, so the counts are those of one
    histogram over all values, whatever their order and batches. Extremes and exact zeros are kept besides.

    >>> observer = Observer()
    >>> for batch in torch.tensor([[0.0, 1.0], [0.5, 4.0]]):
    ...     observer.see(batch)
    >>> observer.range(8, "minmax")
    (0.0, 4.0)
    """

    def __init__(self) -> None:
        self.counts = torch.zeros(2 * HALF, dtype=torch.int64)
        """Values in [(i - HALF) w, (i - HALF + 1) w) for a bin width w; zeros are not among them."""
        self.exponent: int | None = None
        """All magnitudes are below 2^exponent; None before the first that is not zero."""
        self.zeros = 0
        self.low = math.inf
        self.high = -math.inf

    @property
    def width(self) -> float:
        """Width of a bin."""
        return 0.0 if self.exponent is None else 2.0**self.exponent / HALF

    def see(self, tensor: Tensor) -> None:
        """Count the values of a tensor of any shape. Raises UserError for NaN or infinity."""
        values = tensor.detach().flatten().float()
        if not values.numel():
            return
        low, high = _extremes(values)
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._grow(max(abs(low), abs(high)))
        if self.exponent is None:
            self.zeros += values.numel()
            return
        filled = values[values != 0]
        self.zeros += values.numel() - filled.numel()
        bins = (filled * (1 / self.width)).floor_().long().add_(HALF)
        self.counts += torch.bincount(bins, minlength=2 * HALF).cpu()

    def _grow(self, magnitude: float) -> None:
        """Make room for this magnitude."""
        if magnitude < SMALLEST:
            return
        needed = math.frexp(magnitude)[1]
        if self.exponent is None:
            self.exponent = needed
        while self.exponent < needed:
            merged = torch.zeros_like(self.counts)
            merged[HALF // 2 : HALF + HALF // 2] = self.counts.view(HALF, 2).sum(1)
            self.counts, self.exponent = merged, self.exponent + 1

    def range(self, bits: int, method: Ranges) -> Interval:
        """The range (low, high), 0 in it, in which to quantize what was seen: see `clipping` for the methods.

        Raises ValueError if nothing was seen.
        """
        if self.low > self.high:
            raise ValueError("a range of no samples")
        filled = self.counts.nonzero().flatten()
        # A percentile promises how much lies outside, so a bin counts with its far end there; else with its centre.
        within = (filled >= HALF).double() if method == "percentile" else 0.5
        places = ((filled - HALF).double() + within) * self.width
        values = np.append(places.clamp(self.low, self.high).numpy(), 0.0)
        counts = np.append(self.counts[filled].numpy(), self.zeros)
        if max(-self.low, self.high) < SMALLEST:  # nothing but zeros, which any grid holds
            return 0.0, 1.0
        return RULES[method](Sample.of(values, counts, self.low, self.high), 2**bits - 1)


def _extremes(values: Tensor) -> tuple[float, float]:
    low, high = (float(extreme) for extreme in torch.aminmax(values))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UserError("quantization: a tensor to be quantized holds NaN or infinity; look at the network's weights")
    return low, high


def weight_scales(rows: Tensor, bits: int, method: Literal["minmax", "mse"]) -> Tensor:
    """(channels,) scale of each channel of a weight, whose numbers are a row (channels, ...), on the weight's device.

    minmax: the channel's largest weight is on the grid; mse: least squared rounding and clipping error. A scale is at
    least `NARROWEST` of the largest one: a bias is stored in steps of its channel's scale, and a channel of (nearly)
    nothing but zeros would have it overflow.
    """
    limit = weight_limit(bits)
    rows = rows.detach().flatten(1).float()
    largest = rows.abs().amax(1)
    if not torch.isfinite(largest).all():
        raise UserError("quantization: a weight holds NaN or infinity; look at the network's weights")
    scales = largest / limit if method == "minmax" else _least_squares_scales(rows, largest, limit)
    return not_too_narrow(scales, limit)


def not_too_narrow(scales: Tensor, limit: int) -> Tensor:
    """Scales (channels,) of a weight, none below `NARROWEST` of the largest: see `weight_scales`."""
    floor = float(scales.max()) * NARROWEST
    return scales.clamp(min=floor) if floor >= SMALLEST else torch.full_like(scales, 1 / limit)


def _least_squares_scales(rows: Tensor, largest: Tensor, limit: int) -> Tensor:
    best, least = largest / limit, torch.full_like(largest, math.inf)
    for shrink in range(SHRINKS, 0, -1):
        scales = largest * (shrink / SHRINKS) / limit
        grid = scales.clamp(min=SMALLEST)[:, None]
        errors = ((rows / grid).round_().clamp_(-limit, limit) * grid - rows).square_().sum(1)
        better = errors < least
        best, least = torch.where(better, scales, best), torch.where(better, errors, least)
    return best
