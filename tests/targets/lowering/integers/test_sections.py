"""Sections: which registers hold a layer's channels, and where their constants lie."""

from __future__ import annotations

import numpy as np
import pytest

from pocketpipe.integer.fixed_point import Requantization
from pocketpipe.integer.graph import Convolution
from pocketpipe.targets.lowering.integers.geometry import SumOfProducts
from pocketpipe.targets.lowering.integers.sections import packed_weights, parameters, sections
from pocketpipe.targets.lowering.integers.units import SDOT, VNNI_256, VNNI_512, VectorUnit


def layer(made: int, read: int = 5, *, depthwise: bool = False, dilation: int = 1) -> SumOfProducts:
    return SumOfProducts(
        8, 8, 8, 8, groups=1, read=read, made=made, taps=(3, 3), before=(1, 1), depthwise=depthwise,
        dilations=(dilation, dilation),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("unit", "made", "expected"),
    [
        (VNNI_512, 64, [(16, 0, 64)]),
        (VNNI_512, 24, [(16, 0, 16), (8, 16, 8)]),
        (VNNI_512, 10, [(16, 0, 10)]),
        (VNNI_512, 7, [(8, 0, 7)]),
        (VNNI_256, 20, [(8, 0, 20)]),
        (SDOT, 9, [(4, 0, 9)]),
    ],
)
def test_channels_in_registers_that_waste_little(
    unit: VectorUnit, made: int, expected: list[tuple[int, int, int]]
) -> None:
    assert [(each.unit.lanes, each.first, each.made) for each in sections(layer(made), unit)] == expected


def test_depthwise_tails_are_narrower_blocks() -> None:
    found = sections(layer(144, read=1, depthwise=True), VNNI_512)
    assert [(each.unit.block, each.first, each.made) for each in found] == [(64, 0, 128), (16, 128, 16)]


@pytest.mark.parametrize("dilation", [1, 2])
def test_tails_read_what_the_others_read_or_there_are_none(dilation: int) -> None:
    found = sections(layer(24, dilation=dilation), VNNI_512)
    assert len(found) == (2 if dilation == 1 else 1)


@pytest.mark.parametrize(("made", "depthwise"), [(24, False), (7, False), (144, True)])
def test_constants_are_as_long_as_the_sections_say(made: int, depthwise: bool) -> None:
    shape = layer(made, read=1 if depthwise else 5, depthwise=depthwise)
    cut = sections(shape, VNNI_512)
    weight = np.ones((made, 3, 3, 1 if depthwise else 5), np.int8)
    each_channel = Requantization(np.full(made, 2**30, np.int32), np.full(made, 40, np.int32), 0, -128, 127)
    operator = Convolution("layer", ("x",), "y", weight=weight, bias=np.arange(made, dtype=np.int32), strides=(1, 1),
                           pads=(1, 1, 1, 1), dilations=(1, 1), groups=made if depthwise else 1, padding_value=0,
                           requantization=each_channel)  # fmt: skip
    last = cut[-1]
    packed = packed_weights(cut, weight)
    assert len(packed) == last.weights + last.room * last.steps * last.unit.group
    assert packed.sum() == weight.sum(), "every weight once, zeros beside"
    numbers = parameters(cut, operator, ())
    assert len(numbers) == last.parameters + 4 * last.room
    biases = [numbers[each.parameters : each.parameters + each.room] for each in cut]
    taken_out = VNNI_512.offset * int(weight[0].sum())
    assert {int(bias) + taken_out for section in biases for bias in section} == set(range(made))
