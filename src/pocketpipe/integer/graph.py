"""IntegerGraph: what is computed on the device. int8 between operators, int32 inside, nothing real.

Images lie channels last (height, width, channels): the sum of products over channels then reads memory in order, which
is what every processor's dot product wants. Where a network's own order matters, a Transpose stands in the graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pocketpipe.integer.fixed_point import Requantization, on_grid

Shape = tuple[int, ...]
"""Without the batch."""


@dataclass(frozen=True)
class IntegerTensor:
    """An int8 tensor that stands for `scale * (q - zero_point)`; every q lies in low..high."""

    shape: Shape
    scale: float
    zero_point: int
    low: int = -128
    high: int = 127

    @property
    def elements(self) -> int:
        """Bytes that it takes."""
        return int(np.prod(self.shape, dtype=np.int64))

    def quantized(self, real: np.ndarray) -> np.ndarray:
        """Real numbers (N, ...) as int8, by the one rounding rule; what is not a number is `low`, as in C."""
        return on_grid(real, self.scale, self.zero_point, self.low, self.high)

    def real(self, integers: np.ndarray) -> np.ndarray:
        """The real numbers that integers (N, ...) stand for, float32."""
        return ((integers.astype(np.float64) - self.zero_point) * self.scale).astype(np.float32)


@dataclass(frozen=True)
class Operator:
    """One operator; `name` is that of the node that it was made from."""

    name: str
    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True)
class Convolution(Operator):
    """Sum over window and input channels of `weight * q`, plus bias; then requantized. Images, channels last."""

    weight: np.ndarray
    """int8 (out, height, width, in / groups)."""
    bias: np.ndarray
    """int32 (out,), with the input's zero point taken out: `bias - zero_point * sum(weight)`."""
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    """Top, left, bottom, right; what is added is the input's zero point."""
    dilations: tuple[int, int]
    groups: int
    padding_value: int
    requantization: Requantization


@dataclass(frozen=True)
class Linear(Operator):
    """Along the last axis: `weight @ q + bias`, then requantized."""

    weight: np.ndarray
    """int8 (out, in)."""
    bias: np.ndarray
    """int32 (out,), with the input's zero point taken out."""
    requantization: Requantization


@dataclass(frozen=True)
class MatMul(Operator):
    """Product of two activations: `(q - zero_point) @ (q' - zero_point')`, then requantized."""

    zero_points: tuple[int, int]
    requantization: Requantization


@dataclass(frozen=True)
class Add(Operator):
    """`round(sum of (q_i - zero_point_i) * multiplier_i / 2^shift) + zero_point`, clipped: any number of inputs.

    With one input it changes the scale. The sum fits 32 bits (`lowering.ADD_BITS`).
    """

    multipliers: tuple[int, ...]
    shift: int
    zero_points: tuple[int, ...]
    zero_point: int
    low: int
    high: int


@dataclass(frozen=True)
class Multiply(Operator):
    """`(q - zero_point) * (q' - zero_point')`, broadcast, then requantized."""

    zero_points: tuple[int, int]
    requantization: Requantization


@dataclass(frozen=True)
class LayerNorm(Operator):
    """Along the last axis of n integers: less their mean, over their standard deviation, times and plus a number each.

    `d = n * q - sum(q)` and `w = n * sum(q^2) - sum(q)^2 + epsilon`, both exact; `z = d / sqrt(w)` by
    `fixed_point.over_root`, with 16 bits of fraction; then
    `clip(round((z * multiplier + bias * 2^(shift - 16)) / 2^shift) + zero_point, low, high)`.
    """

    epsilon: int
    """What is added to the variance, in the units of w: at least 1, below 2^60."""
    multiplier: np.ndarray
    """int32 (n,)."""
    bias: np.ndarray
    """int32 (n,), with 16 bits of fraction."""
    shift: int
    """16..46."""
    zero_point: int
    low: int
    high: int


@dataclass(frozen=True)
class Softmax(Operator):
    """Along the last axis: each exponential's share in their sum, 30 bits of fraction; then requantized.

    `e = exponentials[largest q - q]`, `share = round(e * floor(2^60 / sum of e) / 2^30)`.
    """

    exponentials: np.ndarray
    """int32 (256,): of 0, -1, -2 ... steps of the input's scale, 23 bits of fraction."""
    requantization: Requantization


@dataclass(frozen=True)
class SumPool(Operator):
    """Sum of `q - zero_point` over windows of images, then requantized; 1 / size of the window is in the multiplier."""

    window: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    input_zero_point: int
    requantization: Requantization


@dataclass(frozen=True)
class MaxPool(Operator):
    """Largest q of each window; what is added around is never the largest."""

    window: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]


@dataclass(frozen=True)
class Table(Operator):
    """`entries[q + 128]`: any function of one tensor (sigmoid, tanh, hard-swish, 1 - x ...)."""

    entries: np.ndarray
    """int8 (256,)."""


@dataclass(frozen=True)
class Concatenation(Operator):
    """One after the other along an axis (the batch is axis 0); all have the same scale."""

    axis: int


@dataclass(frozen=True)
class Pad(Operator):
    """`value` around the input; (before, after) for each axis but the batch."""

    amounts: tuple[tuple[int, int], ...]
    value: int


@dataclass(frozen=True)
class Slice(Operator):
    """(start, stop, step) for each axis but the batch, as of `range`: steps may be negative."""

    ranges: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Transpose(Operator):
    """Axes (the batch is 0) in their new order."""

    order: tuple[int, ...]


@dataclass(frozen=True)
class Reshape(Operator):
    """The same elements in another shape."""

    shape: Shape


@dataclass(frozen=True)
class IntegerGraph:
    """Operators in the order of execution; every tensor by its name."""

    tensors: Mapping[str, IntegerTensor]
    operators: tuple[Operator, ...]
    input: str
    output: str

    def quantized(self, inputs: np.ndarray) -> np.ndarray:
        """Prepared float inputs (N, ...) as int8: what the device's front end does, by the one rounding rule."""
        return self.tensors[self.input].quantized(inputs)

    def real(self, outputs: np.ndarray) -> np.ndarray:
        """int8 outputs (N, ...) as the real numbers that they stand for, float32."""
        return self.tensors[self.output].real(outputs)

    def integers(self, outputs: np.ndarray) -> np.ndarray:
        """The integers (N, ...) that real outputs stand for, int64: one that is no int8 is not made one here."""
        tensor = self.tensors[self.output]
        places = np.rint(outputs.astype(np.float64) / tensor.scale) + tensor.zero_point
        result: np.ndarray = places.astype(np.int64)
        return result
