"""Sections: a layer's channels, cut where another kind of register holds what is left with less room to spare."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pocketpipe.integer.graph import Convolution, Linear
from pocketpipe.targets.lowering.integers.geometry import (
    HEAD,
    PARAMETERS,
    SumOfProducts,
    head,
    of_channels,
    packed_weight,
)
from pocketpipe.targets.lowering.integers.units import VectorUnit


@dataclass(frozen=True)
class Section:
    """Channels of each group that are summed in registers of one kind, and where their constants begin."""

    layer: SumOfProducts
    unit: VectorUnit
    first: int
    """Channel of a group."""
    made: int
    """How many."""
    weights: int = 0
    """Elements of the layer's weights in front of these."""
    parameters: int = HEAD
    """The same of its parameters."""

    @property
    def shape(self) -> SumOfProducts:
        """The layer, if it had only these channels."""
        return replace(self.layer, made=self.made)

    @property
    def registers(self) -> int:
        """Registers that hold the sums of one pixel in one group."""
        return self.shape.registers(self.unit)

    @property
    def steps(self) -> int:
        """Registers of weights behind each register of sums."""
        rows, columns = self.layer.taps
        group = self.unit.group
        if not self.layer.depthwise:
            return rows * self.steps_of_row
        return -(-rows // group) * columns if self.layer.grouped_down else rows * -(-columns // group)

    @property
    def steps_of_row(self) -> int:
        """The same of one row of taps; not for depthwise layers."""
        columns, group = self.layer.taps[1], self.unit.group
        if self.layer.in_one_run:
            return -(-columns * self.layer.read // group)
        return columns * -(-self.layer.read // group)

    @property
    def room(self) -> int:
        """Channels that its registers could hold, in all groups."""
        return self.layer.groups * self.registers * self.unit.lanes


def sections(layer: SumOfProducts, unit: VectorUnit) -> tuple[Section, ...]:
    """Cover the channels of a layer.

    Full registers first; for what is left, where it is no more than half a register, a kind that wastes less: depthwise
    a narrower one, else a folded one.
    """
    found: list[Section] = []
    for kind, first, made in _kinds(layer, unit):
        section = Section(layer, kind, first, made)
        if found:
            last = found[-1]
            section = replace(
                section,
                weights=last.weights + last.room * last.steps * last.unit.group,
                parameters=last.parameters + last.room * PARAMETERS,
            )
        found.append(section)
    return tuple(found)


def _kinds(layer: SumOfProducts, unit: VectorUnit) -> Iterator[tuple[VectorUnit, int, int]]:
    """(registers, first channel, how many)."""
    whole = unit.block if layer.depthwise else unit.lanes
    left = layer.made % whole
    better = _for_few(layer, unit, left)
    # What a tail reads must lie where the others read it, whatever is filled up to groups.
    cut = better is not unit and (layer.depthwise or layer.in_one_run or left == layer.made)
    if not left or not cut:
        yield unit, 0, layer.made
        return
    if left < layer.made:
        yield unit, 0, layer.made - left
    yield better, layer.made - left, left


def _for_few(layer: SumOfProducts, unit: VectorUnit, channels: int) -> VectorUnit:
    """The registers that few channels fill best."""
    if layer.depthwise:
        narrower = unit.narrower
        return _for_few(layer, narrower, channels) if narrower and channels <= narrower.block else unit
    return unit.folded if unit.folded and channels <= unit.folded.lanes else unit


def packed_weights(cut: Sequence[Section], weight: np.ndarray) -> np.ndarray:
    """`weight` (out, *taps, read) as a kernel reads it, section after section; (elements,)."""
    layer = cut[0].layer
    by_group = weight.reshape(layer.groups, layer.made, *weight.shape[1:])
    return np.concatenate([
        packed_weight(
            each.shape, by_group[:, each.first : each.first + each.made].reshape(-1, *weight.shape[1:]), each.unit
        ).reshape(-1)
        for each in cut
    ])  # fmt: skip


def parameters(cut: Sequence[Section], operator: Convolution | Linear, addition: tuple[int, ...]) -> np.ndarray:
    """int32: HEAD numbers, then, for each section, its channels' (`geometry.of_channels`).

    `addition`: what `addition_parameters` gives, or nothing.
    """
    numbers = [head(operator, addition)]
    numbers += [of_channels(each.shape, operator, each.unit, _channels(each)) for each in cut]
    return np.concatenate(numbers).astype(np.int32)


def _channels(section: Section) -> np.ndarray:
    """Which channels of the layer it has."""
    layer = section.layer
    all_of_them = np.arange(layer.outputs).reshape(layer.groups, layer.made)
    return all_of_them[:, section.first : section.first + section.made].reshape(-1)
