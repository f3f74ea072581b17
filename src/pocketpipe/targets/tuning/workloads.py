"""What is tuned: a nest in float, or a sum of products in integers, with data to run it on and schedules to try."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import prod

import numpy as np
from tvm.tirx import PrimFunc

from pocketpipe.integer.fixed_point import Requantization
from pocketpipe.integer.graph import Convolution
from pocketpipe.targets.lowering import kernel as floats
from pocketpipe.targets.lowering import tiling
from pocketpipe.targets.lowering.cpu import Cpu
from pocketpipe.targets.lowering.integers import kernel as integers
from pocketpipe.targets.lowering.integers.geometry import SumOfProducts
from pocketpipe.targets.lowering.integers.sections import Section, packed_weights, parameters, sections
from pocketpipe.targets.lowering.integers.units import VectorUnit
from pocketpipe.targets.lowering.nest import Nest, Spread
from pocketpipe.targets.lowering.packing import packed
from pocketpipe.targets.lowering.schedule import Schedule
from pocketpipe.targets.tuning.measuring import Contender

ADDITION = (1 << 14, 1 << 14, 1 << 14, 15, 0, -128, 127)
"""Parameters of a fused addition (`geometry.addition_parameters`): the mean of both."""


class Workload(ABC):
    """One shape of kernel on one processor."""

    cpu: Cpu

    @property
    @abstractmethod
    def shape(self) -> Nest | SumOfProducts:
        """What is computed."""

    @property
    @abstractmethod
    def rule(self) -> Schedule:
        """The schedule that it has without tuning."""

    @property
    @abstractmethod
    def work(self) -> int:
        """Products."""

    @abstractmethod
    def most(self) -> tuple[int, range, int]:
        """(pixels at most, numbers of registers of channels, registers of sums at most) that a tile can have."""

    @abstractmethod
    def kernel(self, schedule: Schedule) -> PrimFunc:
        """With another schedule."""

    @abstractmethod
    def arguments(self, schedule: Schedule | None) -> list[np.ndarray]:
        """Made-up data as the kernel with a schedule takes it, the output last; None: the weight as it comes."""

    def contender(self, schedule: Schedule) -> Contender:
        """The kernel with a schedule, on the data."""
        return Contender(self.kernel(schedule), self.arguments(schedule))


@dataclass(frozen=True)
class FloatWorkload(Workload):
    """A nest."""

    nest: Nest
    cpu: Cpu

    @property
    def shape(self) -> Nest:
        return self.nest

    @property
    def rule(self) -> Schedule:
        return Schedule(*tiling.tile_shape(self.nest, self.cpu))

    @property
    def work(self) -> int:
        nest = self.nest
        return nest.outer * nest.rows.out * nest.columns.out * nest.channels * nest.steps

    def most(self) -> tuple[int, range, int]:
        _, columns = self.nest.lines
        pixels = min(columns.out, 2 * tiling.MOST_PIXELS)
        vectors = min(-(-self.nest.channels // self.cpu.lanes), tiling.MOST_VECTORS)
        return pixels, range(1, vectors + 1), self.cpu.accumulators + 4

    def kernel(self, schedule: Schedule) -> PrimFunc:
        return floats.kernel(self.nest, self.cpu, schedule=schedule)

    def arguments(self, schedule: Schedule | None) -> list[np.ndarray]:
        nest, draw = self.nest, np.random.default_rng(0)
        out = (nest.outer - 1) * nest.out_outer + nest.rows.out * nest.columns.out * nest.out_pixel
        data = (nest.outer - 1) * nest.data_outer + nest.rows.size * nest.columns.size * nest.data_pixel
        of_spread = {
            Spread.SAME: out,
            Spread.CHANNEL: (nest.outer - 1) * nest.channel_outer + nest.channels,
            Spread.SCALAR: 1,
        }
        operands = [of_spread[step.spread] for step in nest.epilogue if step.has_operand]
        x, *others = (draw.normal(size=size).astype(np.float32) for size in (data, *operands))
        weight = draw.normal(size=self._weight_shape).astype(np.float32)
        if nest.packed and schedule is not None:
            weight = packed(nest, tiling.channel_tiles(nest, self.cpu.lanes, schedule.vectors), weight)
        return [x, weight.reshape(-1), *others, np.zeros(out, np.float32)]

    @property
    def _weight_shape(self) -> tuple[int, ...]:
        nest = self.nest
        if nest.outer > 1 and nest.weight_outer != nest.channels:  # a batch of matrices
            return nest.outer, nest.summed, nest.channels
        return nest.steps, nest.outer * nest.channels


@dataclass(frozen=True)
class IntegerWorkload(Workload):
    """A sum of products."""

    sums: SumOfProducts
    cpu: Cpu

    @property
    def shape(self) -> SumOfProducts:
        return self.sums

    @property
    def unit(self) -> VectorUnit:
        """The processor's registers."""
        return self.cpu.unit

    @property
    def main(self) -> Section:
        """What is tuned: what its last channels need is by rule."""
        return sections(self.sums, self.unit)[0]

    @property
    def rule(self) -> Schedule:
        return Schedule(*integers.tile_sizes(self.main.shape, self.main.unit))

    @property
    def work(self) -> int:
        shape = self.shape
        return shape.out_height * shape.out_width * shape.outputs * shape.read * prod(shape.taps)

    def most(self) -> tuple[int, range, int]:
        vectors = range(1, min(self.main.registers, 2 * integers.MOST_VECTORS) + 1)
        if self.shape.depthwise:  # whose tiles are a block of channels
            vectors = range(self.rule.vectors, self.rule.vectors + 1)
        return min(self.shape.lines[1], integers.MOST_PIXELS), vectors, self.main.unit.accumulators + 4

    def kernel(self, schedule: Schedule) -> PrimFunc:
        return integers.kernel(self.shape, self.unit, chosen=schedule)

    def arguments(self, schedule: Schedule | None) -> list[np.ndarray]:
        shape, cut = self.shape, sections(self.shape, self.unit)
        draw = np.random.default_rng(0)
        weight = draw.integers(-127, 128, (shape.outputs, *shape.taps, shape.read)).astype(np.int8)
        shift = np.full(shape.outputs, 30 if shape.wide else 40, np.int32)
        multiplier = draw.integers(2**29, 2**31, shape.outputs).astype(np.int32)
        layer = Convolution(
            "layer", ("x",), "y", weight=weight, bias=draw.integers(-500, 500, shape.outputs).astype(np.int32),
            strides=shape.strides, pads=(*shape.before, *shape.before), dilations=shape.dilations,
            groups=shape.outputs if shape.depthwise else shape.groups, padding_value=0,
            requantization=Requantization(multiplier, shift, 0, -128, 127),
        )  # fmt: skip
        made = shape.out_height * shape.out_width * shape.outputs
        x, other = (draw.integers(-128, 128, size).astype(np.int8) for size in (
            shape.height * shape.width * shape.channels, made
        ))  # fmt: skip
        return [
            x,
            packed_weights(cut, weight),
            parameters(cut, layer, ADDITION if shape.adds else ()),
            *([other] if shape.adds else []),
            np.zeros(made, np.int8),
        ]
