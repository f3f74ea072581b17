"""What rounds to integers: parametrizations of weights, modules for tensors between layers.

Both compute `step * clamp(round(x / step), low, high)`, halves to even as ONNX's QuantizeLinear does, and train the
step by LSQ (Esser et al. 2020, "Learned Step Size Quantization").
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pocketpipe.compression.quantization.ranges import weight_limit
from pocketpipe.compression.weights import along

SMALLEST_STEP = 1e-12
"""Steps are kept above this, whatever training does to them."""


FAR_BELOW = 32.0
"""What lies so far below the largest number of its row is 1e-14 after a softmax: 0, however it is rounded."""
HIDDEN = 128.0
"""A row whose largest number is so far below that of another is one that a mask hides throughout: it says nothing."""
LARGEST_GRADIENT = 0.1
"""Of a step, as a share of the step. LSQ wants the relative change of steps to be that of weights (section 2.2), but a
steep batch throws a step, two orders of magnitude smaller than what it divides, past zero or far beyond its tensor;
from there no gradient leads back. The unquantized network recovers from such a batch, and so do bounded steps."""


def weight_levels(bits: int) -> tuple[int, int]:
    """Smallest and largest integer of a weight: symmetric, so that zero point 0 and a sign can be flipped.

    >>> weight_levels(8), weight_levels(2)
    ((-127, 127), (-1, 1))
    """
    limit = weight_limit(bits)
    return -limit, limit


def activation_levels(bits: int) -> tuple[int, int]:
    """Smallest and largest integer of a tensor between layers.

    >>> activation_levels(8), activation_levels(4)
    ((-128, 127), (-8, 7))
    """
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def lsq_step(values: Tensor, high: int) -> Tensor:
    """The step from which LSQ starts: 2 <|v|> / sqrt(Qp) (section 2.1), a scalar."""
    step: Tensor = 2 * values.abs().mean() / high**0.5
    return step


class _LearnedStep(torch.autograd.Function):
    """Rounding whose gradients are LSQ's: straight through inside the range; equation 3 for the step, bounded."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, low: Tensor, high: Tensor, weight: Tensor) -> Tensor:
        """`weight` multiplies the step's gradient."""
        scaled = x / step
        ctx.save_for_backward(scaled, step, low, high, weight)
        return scaled.round().clamp(low, high) * step

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        (gradient,) = gradients
        scaled, step, low, high, weight = ctx.saved_tensors
        inside = (scaled > low) & (scaled < high)
        slope = scaled.round().clamp(low, high) - torch.where(inside, scaled, 0.0)  # masked attention holds -inf
        of_step = (gradient * slope).sum_to_size(step.shape) * weight
        bound = LARGEST_GRADIENT * step
        return gradient * inside, of_step.clamp(-bound, bound), None, None, None


def learned_step(x: Tensor, step: Tensor, low: Tensor, high: Tensor, shared_by: int) -> Tensor:
    """`step * clamp(round(x / step), low, high)`, with LSQ's gradients; never in fewer bits than float32 has.

    `step` is positive and broadcasts against `x`; `low` and `high` are scalars; `shared_by` is the number N of
    elements (of one example) that share a step: its gradient is scaled by 1 / sqrt(N Qp) (section 2.2), and is at most
    `LARGEST_GRADIENT` of the step.
    """
    weight = (high.clamp(min=1.0) * shared_by).rsqrt()
    rounded: Tensor = _LearnedStep.apply(x.to(step.dtype), step, low, high, weight)  # type: ignore[no-untyped-call]
    return rounded


def positive(scale: Tensor) -> Tensor:
    """The step that a trained scale stands for."""
    return scale.abs().clamp(min=SMALLEST_STEP)


class WeightQuantizer(nn.Module):
    """Parametrization that rounds a weight: signed, symmetric, one step for each output channel, or one for all.

    `axis` is the weight's axis of output channels, None = one step. `scale` has one dimension, like all that
    weight decay is to leave alone; it is 1 until something sets it.
    """

    def __init__(self, bits: int, shape: tuple[int, ...], axis: int | None) -> None:
        super().__init__()
        self.bits, self.axis = bits, axis
        self.scale = nn.Parameter(torch.ones(1 if axis is None else shape[axis]))
        self.low: Tensor
        self.high: Tensor
        for name, level in zip(("low", "high"), weight_levels(bits), strict=True):
            self.register_buffer(name, torch.tensor(float(level)), persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight on its grid, same shape."""
        return learned_step(weight, self.step(weight.ndim), self.low, self.high, weight.numel() // self.scale.numel())

    def step(self, ndim: int) -> Tensor:
        """Positive steps, shaped to broadcast against a weight of `ndim` dimensions."""
        return along(positive(self.scale), self.axis, ndim)

    @torch.no_grad()
    def set_step(self, step: Tensor | float) -> None:
        """Set the step(s)."""
        self.scale.copy_(torch.as_tensor(step, dtype=self.scale.dtype).clamp(min=SMALLEST_STEP))

    def extra_repr(self) -> str:
        """Bits and axis."""
        return f"bits={self.bits}, axis={self.axis}"


class ActivationQuantizer(nn.Module):
    """Rounds a tensor between layers: signed integers, one step, an integer zero point that training leaves alone.

    `scale` is 1 and `zero_point` 0 until `set_range` says what the tensor holds. `softmax_axis`: see `told`.
    """

    rounds_only = True

    def __init__(self, bits: int, softmax_axis: int | None = None) -> None:
        super().__init__()
        self.bits, self.softmax_axis = bits, softmax_axis
        self.scale = nn.Parameter(torch.ones(()))
        self.zero_point: Tensor
        self.register_buffer("zero_point", torch.zeros((), dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        """(N, ...) on the grid, float32."""
        low, high = activation_levels(self.bits)
        zero_point = self.zero_point.to(self.scale.dtype)
        features = x.numel() // max(x.shape[0], 1) if x.ndim else 1
        return learned_step(x, positive(self.scale), low - zero_point, high - zero_point, features)

    def told(self, x: Tensor) -> Tensor:
        """What of a tensor is to set the range: before a softmax not how far below its row a mask puts a number."""
        if self.softmax_axis is None:
            return x
        tops = x.amax(self.softmax_axis, keepdim=True)
        shown = tops >= tops.amax() - HIDDEN
        least = tops.where(shown, tops.amax()).amin()
        return x.maximum(tops.where(shown, least) - FAR_BELOW)

    @torch.no_grad()
    def set_range(self, low: float, high: float) -> None:
        """Step and zero point for values from `low` to `high`; zero is always on the grid."""
        low, high = min(low, 0.0), max(high, 0.0)
        least, largest = activation_levels(self.bits)
        step = (high - low) / (largest - least) if high > low else 1.0
        self.scale.fill_(max(step, SMALLEST_STEP))
        self.zero_point.fill_(min(max(round(least - low / step), least), largest))

    def extra_repr(self) -> str:
        """Bits."""
        return f"bits={self.bits}"
