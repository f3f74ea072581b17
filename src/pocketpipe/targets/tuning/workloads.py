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
from pocketpipe.targets.lowering.integers.geometry import SumOfProducts, packed_weight, parameters
from pocketpipe.targets.lowering.nest import Nest, Spread
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
    def most(self) -> tuple[int, int, int]:
        """(pixels, registers of channels, registers of sums) that a tile can have."""

    @abstractmethod
    def kernel(self, schedule: Schedule) -> PrimFunc:
        """With another schedule."""

    @abstractmethod
    def arguments(self) -> list[np.ndarray]:
        """Made-up data, the output last."""

    def contender(self, schedule: Schedule) -> Contender:
        """The kernel with a schedule, on the data."""
        return Contender(self.kernel(schedule), self.arguments())


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
        return nest.outer * nest.rows.out * nest.columns.out * nest.channels * nest.summed * self._taps

    def most(self) -> tuple[int, int, int]:
        columns = min(self.nest.columns.out, 2 * tiling.MOST_PIXELS)
        return columns, min(-(-self.nest.channels // self.cpu.lanes), tiling.MOST_VECTORS), self.cpu.accumulators + 4

    def kernel(self, schedule: Schedule) -> PrimFunc:
        return floats.kernel(self.nest, self.cpu, schedule=schedule)

    def arguments(self) -> list[np.ndarray]:
        nest = self.nest
        pixels = nest.rows.out * nest.columns.out
        out = (nest.outer - 1) * nest.out_outer + pixels * nest.out_pixel
        weight = (nest.outer - 1) * nest.weight_outer + self._taps * nest.summed * max(nest.weight_step, nest.channels)
        sizes = [
            (nest.outer - 1) * nest.data_outer + nest.rows.size * nest.columns.size * nest.data_pixel,
            weight + floats.SLACK_FLOATS,
        ]
        of_spread = {
            Spread.SAME: out,
            Spread.CHANNEL: (nest.outer - 1) * nest.channel_outer + nest.channels,
            Spread.SCALAR: 1,
        }
        sizes += [of_spread[step.spread] for step in nest.epilogue if step.has_operand]
        draw = np.random.default_rng(0)
        made = [draw.normal(size=size).astype(np.float32) for size in sizes]
        return [*made, np.zeros(out, np.float32)]

    @property
    def _taps(self) -> int:
        return self.nest.rows.taps * self.nest.columns.taps


@dataclass(frozen=True)
class IntegerWorkload(Workload):
    """A sum of products."""

    sums: SumOfProducts
    cpu: Cpu

    @property
    def shape(self) -> SumOfProducts:
        return self.sums

    @property
    def rule(self) -> Schedule:
        return Schedule(*integers.tile_sizes(self.shape, self.cpu.unit))

    @property
    def work(self) -> int:
        shape = self.shape
        return shape.out_height * shape.out_width * shape.outputs * shape.read * prod(shape.taps)

    def most(self) -> tuple[int, int, int]:
        unit = self.cpu.unit
        registers = min(-(-self.shape.made // unit.lanes), 2 * integers.MOST_VECTORS)
        return min(self.shape.out_width, integers.MOST_PIXELS), registers, unit.accumulators + 4

    def kernel(self, schedule: Schedule) -> PrimFunc:
        return integers.kernel(self.shape, self.cpu.unit, schedule=schedule)

    def arguments(self) -> list[np.ndarray]:
        shape, unit = self.shape, self.cpu.unit
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
            packed_weight(shape, weight, unit.lanes, unit.group),
            parameters(shape, layer, ADDITION if shape.adds else (), unit.lanes, unit.offset),
            *([other] if shape.adds else []),
            np.zeros(made, np.int8),
        ]
