"""SumOfProducts: a convolution or linear layer on integers, as numbers; how its constants lie in memory.

What differs between layers of equal shape (weights, factors, zero points) is data, so that they share one kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import singledispatch

import numpy as np

from pocketpipe.integer.fixed_point import Requantization
from pocketpipe.integer.graph import Add, Convolution, IntegerTensor, Linear, Operator

SMALLEST_SHIFT = 33
"""From here on the high half of a product is enough (`VectorUnit.rescale`); below, 64 bits are kept to the end."""

PADDING, ZERO_POINT, LOW, HIGH = range(4)
OWN, OTHER, REST, SHIFT, SUM_ZERO_POINT, SUM_LOW, SUM_HIGH = range(4, 11)
HEAD = 16
"""Numbers in front of a layer's parameters: indices as named above; the second row is the fused addition's."""


@dataclass(frozen=True)
class SumOfProducts:
    """Shape of the layer. Images: rows, columns, channels; a linear layer has one row and a column a vector."""

    height: int
    width: int
    out_height: int
    out_width: int
    groups: int
    """Parts of the channels that are computed apart; 1 if depthwise."""
    read: int
    """Channels that one sum reads; 1 if depthwise."""
    made: int
    """Output channels of a group."""
    taps: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    before: tuple[int, int] = (0, 0)
    """Rows above and columns to the left that are padded."""
    depthwise: bool = False
    adds: bool = False
    """Whether another tensor is added to the result before it is stored."""
    wide: bool = False
    """Whether factors are so large that their products need 64 bits to the end."""

    @property
    def channels(self) -> int:
        """Channels of the input."""
        return self.made if self.depthwise else self.groups * self.read

    @property
    def outputs(self) -> int:
        """Channels of the output."""
        return self.groups * self.made


@singledispatch
def geometry(operator: Operator, x: IntegerTensor, out: IntegerTensor, addition: Add | None) -> SumOfProducts | None:
    """The shape of an operator if it is a sum of products with constant weights, else None."""
    return None


@geometry.register
def _(operator: Convolution, x: IntegerTensor, out: IntegerTensor, addition: Add | None) -> SumOfProducts:
    made, *taps, read = operator.weight.shape
    depthwise = operator.groups > 1 and read == 1 and made == operator.groups
    return SumOfProducts(
        height=x.shape[0], width=x.shape[1], out_height=out.shape[0], out_width=out.shape[1],
        groups=1 if depthwise else operator.groups, read=read, made=made if depthwise else made // operator.groups,
        taps=(taps[0], taps[1]), strides=operator.strides, dilations=operator.dilations, before=operator.pads[:2],
        depthwise=depthwise, adds=addition is not None, wide=_wide(operator.requantization),
    )  # fmt: skip


@geometry.register
def _(operator: Linear, x: IntegerTensor, out: IntegerTensor, addition: Add | None) -> SumOfProducts:
    made, read = operator.weight.shape
    rows = x.elements // read
    return SumOfProducts(1, rows, 1, rows, groups=1, read=read, made=made, adds=addition is not None,
                         wide=_wide(operator.requantization))  # fmt: skip


def _wide(requantization: Requantization) -> bool:
    return bool(np.any((requantization.shift < SMALLEST_SHIFT) & (requantization.multiplier != 0)))


def rounded_up(count: int, multiple: int) -> int:
    """The next multiple.

    >>> rounded_up(13, 4)
    16
    """
    return -(-count // multiple) * multiple


def packed_weight(shape: SumOfProducts, weight: np.ndarray, lanes: int, group: int) -> np.ndarray:
    """`weight` (out, *taps, read) in the order in which a kernel reads it, zeros where a register is not full.

    (groups, blocks of `lanes` channels, tap rows, tap columns, inputs / group, lanes, group); depthwise sums `group`
    tap columns instead of inputs.
    """
    rows, columns = shape.taps
    taken = weight.reshape(shape.groups, shape.made, rows, columns, shape.read)
    if shape.depthwise:
        taken = taken.transpose(0, 1, 2, 4, 3)
    amounts = [(0, 0)] * 5
    amounts[1] = (0, -shape.made % lanes)
    amounts[4] = (0, -taken.shape[4] % group)
    taken = np.pad(taken, amounts)
    outer, made, first, second, summed = taken.shape
    blocks = taken.reshape(outer, made // lanes, lanes, first, second, summed // group, group)
    return np.ascontiguousarray(blocks.transpose(0, 1, 3, 4, 5, 2, 6))


def parameters(
    shape: SumOfProducts, operator: Convolution | Linear, addition: tuple[int, ...], lanes: int, offset: int
) -> np.ndarray:
    """int32: HEAD numbers, then bias, multiplier and shift of each channel, each group's filled up to whole registers.

    `addition`: what `addition_parameters` gives, or nothing. `offset` is what the kernel adds to its inputs: it is
    taken out of the bias.
    """
    requantization = operator.requantization
    head = np.zeros(HEAD, np.int64)
    head[PADDING] = operator.padding_value if isinstance(operator, Convolution) else 0
    head[[ZERO_POINT, LOW, HIGH]] = requantization.zero_point, requantization.low, requantization.high
    head[OWN : OWN + len(addition)] = addition
    sums = operator.weight.astype(np.int64).reshape(len(operator.weight), -1).sum(1)
    multiplier = np.broadcast_to(requantization.multiplier, (shape.outputs,))
    shift = np.where(multiplier == 0, SMALLEST_SHIFT, np.broadcast_to(requantization.shift, (shape.outputs,)))
    columns = (
        (operator.bias - offset * sums, 0), (multiplier, 0), (shift, SMALLEST_SHIFT)
    )  # fmt: skip
    by_group = [
        np.pad(
            np.asarray(values, np.int64).reshape(shape.groups, shape.made),
            ((0, 0), (0, -shape.made % lanes)),
            constant_values=fill,
        )
        for values, fill in columns
    ]
    # Sums wrap around in 32 bits and come out right: only the whole sum has to fit (proof).
    return np.concatenate([head, *(part.reshape(-1) for part in by_group)]).astype(np.int32)


def addition_parameters(addition: Add, own: int) -> tuple[int, ...]:
    """OWN ... SUM_HIGH of an addition of two tensors, of which number `own` is the one that a kernel has at hand.

    `a * OWN + b * OTHER + REST` wraps around in 32 bits; its value fits (`lowering.ADD_BITS`).
    """
    first, second = addition.multipliers if own == 0 else addition.multipliers[::-1]
    rest = -sum(zero * factor for zero, factor in zip(addition.zero_points, addition.multipliers, strict=True))
    rest += 1 << (addition.shift - 1)
    return (first, second, rest, addition.shift, addition.zero_point, addition.low, addition.high)
