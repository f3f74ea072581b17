"""SumOfProducts: a convolution or linear layer on integers, as numbers; how its constants lie in memory.

What differs between layers of equal shape (weights, factors, zero points) is data, so that they share one kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import singledispatch

import numpy as np

from pocketpipe.integer.fixed_point import Requantization
from pocketpipe.integer.graph import Add, Convolution, IntegerTensor, Linear, Operator
from pocketpipe.targets.lowering.integers.units import VectorUnit
from pocketpipe.targets.lowering.nest import joined

SMALLEST_SHIFT, LARGEST_SHIFT = 33, 54
"""Where the high half of a product is enough (`VectorUnit.rescale`); else 64 bits are kept to the end.

The zero point, shifted, and half take less than 2^30, the high half at most 2^30; doubled, it saturates.
"""

PADDING, ZERO_POINT, LOW, HIGH = range(4)
OWN, OTHER, REST, SHIFT, SUM_ZERO_POINT, SUM_LOW, SUM_HIGH = range(4, 11)
HEAD = 16
"""Numbers in front of a layer's parameters: indices as named above; the second row is the fused addition's."""
PARAMETERS = 4
"""Numbers of each channel: bias, multiplier, rounding, places."""


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
    """Whether factors are so large, or so small, that their products need 64 bits to the end."""
    bounded: bool = False
    """Whether what is stored is cut to fewer integers than a byte has: narrowing alone cuts to those."""

    @property
    def channels(self) -> int:
        """Channels of the input."""
        return self.made if self.depthwise else self.groups * self.read

    @property
    def in_one_run(self) -> bool:
        """Whether what a sum reads of a row lies side by side, all taps and inputs."""
        return not self.depthwise and self.groups == 1 and self.dilations[1] == 1

    @property
    def grouped_down(self) -> bool:
        """Depthwise: whether taps below each other are summed together, or neighbours in a row."""
        return self.taps[0] > 1 or self.taps[1] == 1

    @property
    def outputs(self) -> int:
        """Channels of the output."""
        return self.groups * self.made

    @property
    def rows_of_line(self) -> int:
        """Rows of the output that tiles walk over as one line."""
        return 1 if self.depthwise else joined(self.out_height, self.out_width)

    @property
    def lines(self) -> tuple[int, int]:
        """How many lines the output has, and pixels of each."""
        return self.out_height // self.rows_of_line, self.rows_of_line * self.out_width

    def registers(self, unit: VectorUnit) -> int:
        """Registers that hold the sums of one pixel in one group."""
        return -(-self.made // unit.block) * unit.group if self.depthwise else -(-self.made // unit.lanes)


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
        bounded=_bounded(operator, addition),
    )  # fmt: skip


@geometry.register
def _(operator: Linear, x: IntegerTensor, out: IntegerTensor, addition: Add | None) -> SumOfProducts:
    made, read = operator.weight.shape
    rows = x.elements // read
    return SumOfProducts(1, rows, 1, rows, groups=1, read=read, made=made, adds=addition is not None,
                         wide=_wide(operator.requantization), bounded=_bounded(operator, addition))  # fmt: skip


def _wide(requantization: Requantization) -> bool:
    outside = (requantization.shift < SMALLEST_SHIFT) | (requantization.shift > LARGEST_SHIFT)
    return bool(np.any(outside & (requantization.multiplier != 0)))


def _bounded(operator: Convolution | Linear, addition: Add | None) -> bool:
    last = operator.requantization if addition is None else addition
    return (last.low, last.high) != (-128, 127)


def rounded_up(count: int, multiple: int) -> int:
    """The next multiple.

    >>> rounded_up(13, 4)
    16
    """
    return -(-count // multiple) * multiple


def order_in_block(unit: VectorUnit) -> list[int]:
    """Depthwise: which of `unit.block` channels is in each lane, register after register.

    In each lane of 128 bits, register `j` has the channels that interleaving leaves together (`depthwise`).
    """
    fours = [4 * (unit.group * part + j) for j in range(unit.group) for part in range(unit.lanes // 4)]
    return [four + i for four in fours for i in range(4)]


def packed_weight(shape: SumOfProducts, weight: np.ndarray, unit: VectorUnit) -> np.ndarray:
    """`weight` (out, *taps, read) in the order in which a kernel reads it, zeros where a register is not full.

    (groups, blocks of `lanes` channels, tap rows, tap columns, inputs / group, lanes, group); where they are
    `in_one_run`, columns and inputs are one axis. Depthwise: (blocks of `unit.block` channels, tap rows, tap columns,
    registers, lanes, group), one of the two counted in groups of taps.
    """
    if shape.depthwise:
        return _packed_taps(shape, weight[..., 0], unit)
    lanes, group = unit.lanes, unit.group
    rows, columns = shape.taps
    summed = (rows, 1, columns * shape.read) if shape.in_one_run else (rows, columns, shape.read)
    taken = weight.reshape(shape.groups, shape.made, *summed)
    amounts = [(0, 0)] * 5
    amounts[1] = (0, -shape.made % lanes)
    amounts[4] = (0, -taken.shape[4] % group)
    taken = np.pad(taken, amounts)
    outer, made, _, across, inner = taken.shape
    blocks = taken.reshape(outer, made // lanes, lanes, rows, across, inner // group, group)
    return np.ascontiguousarray(blocks.transpose(0, 1, 3, 4, 5, 2, 6))


def _packed_taps(shape: SumOfProducts, weight: np.ndarray, unit: VectorUnit) -> np.ndarray:
    rows, columns = shape.taps
    amounts = [(0, -shape.made % unit.block), (0, 0), (0, 0)]
    amounts[1 if shape.grouped_down else 2] = (0, -shape.taps[0 if shape.grouped_down else 1] % unit.group)
    taken = np.pad(weight, amounts)
    if shape.grouped_down:
        taken = taken.reshape(len(taken), -1, unit.group, columns).transpose(0, 1, 3, 2)
    else:
        taken = taken.reshape(len(taken), rows, -1, unit.group)
    blocks = taken.reshape(-1, unit.block, *taken.shape[1:])[:, order_in_block(unit)]
    by_register = blocks.reshape(len(blocks), unit.group, unit.lanes, *taken.shape[1:])
    return np.ascontiguousarray(by_register.transpose(0, 3, 4, 1, 2, 5))


def head(operator: Convolution | Linear, addition: tuple[int, ...]) -> np.ndarray:
    """The HEAD numbers of a layer; `addition`: what `addition_parameters` gives, or nothing."""
    requantization = operator.requantization
    numbers = np.zeros(HEAD, np.int64)
    numbers[PADDING] = operator.padding_value if isinstance(operator, Convolution) else 0
    numbers[[ZERO_POINT, LOW, HIGH]] = requantization.zero_point, requantization.low, requantization.high
    numbers[OWN : OWN + len(addition)] = addition
    return numbers


def of_channels(
    shape: SumOfProducts, operator: Convolution | Linear, unit: VectorUnit, channels: np.ndarray
) -> np.ndarray:
    """Bias, multiplier, rounding and places of `channels`, each group's filled up to whole registers; what the last two
    are, `VectorUnit.rescale` says. `shape`: of a layer with these channels alone.
    """
    requantization = operator.requantization
    sums = operator.weight[channels].astype(np.int64).reshape(len(channels), -1).sum(1)
    every = (len(operator.weight),)
    multiplier = np.broadcast_to(requantization.multiplier, every)[channels]
    shift = np.where(multiplier == 0, SMALLEST_SHIFT, np.broadcast_to(requantization.shift, every)[channels])
    places = shift.astype(np.int64) - (0 if shape.wide else unit.high)
    rounding = (1 << (places - 1)) + (requantization.zero_point << places)
    # Sums wrap around in 32 bits and come out right: only the whole sum has to fit (proof). What the kernel adds to its
    # inputs is taken out of the bias.
    bias = operator.bias[channels] - unit.offset * sums
    columns = (bias, multiplier, 0 * rounding if shape.wide else rounding, places)
    return np.concatenate([_by_register(shape, np.asarray(values, np.int64), unit) for values in columns])


def _by_register(shape: SumOfProducts, values: np.ndarray, unit: VectorUnit) -> np.ndarray:
    """A number of each channel, in the lanes of the registers that hold their sums."""
    whole = unit.block if shape.depthwise else unit.lanes
    filled = np.pad(values.reshape(shape.groups, shape.made), ((0, 0), (0, -shape.made % whole)), mode="edge")
    if shape.depthwise:
        filled = filled.reshape(-1, unit.block)[:, order_in_block(unit)]
    return filled.reshape(-1)


def addition_parameters(addition: Add, own: int) -> tuple[int, ...]:
    """OWN ... SUM_HIGH of an addition of two tensors, of which number `own` is the one that a kernel has at hand.

    `a * OWN + b * OTHER + REST` wraps around in 32 bits; its value fits (`lowering.ADD_BITS`).
    """
    first, second = addition.multipliers if own == 0 else addition.multipliers[::-1]
    rest = -sum(zero * factor for zero, factor in zip(addition.zero_points, addition.multipliers, strict=True))
    rest += 1 << (addition.shift - 1)
    return (first, second, rest, addition.shift, addition.zero_point, addition.low, addition.high)
