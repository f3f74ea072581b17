"""Kernels of sums of products: the reference's integers at every level of the architecture, and nothing beside them."""

from __future__ import annotations

import ctypes
import platform
from pathlib import Path

import numpy as np
import pytest

from pocketpipe.delivery.model import cpu_flags
from pocketpipe.integer import reference
from pocketpipe.integer.fixed_point import Requantization
from pocketpipe.integer.graph import Add, Convolution, IntegerTensor
from pocketpipe.targets.lowering.integers.geometry import addition_parameters, geometry
from pocketpipe.targets.lowering.integers.kernel import kernel
from pocketpipe.targets.lowering.integers.sections import packed_weights, parameters, sections
from pocketpipe.targets.lowering.objects import write_object
from pocketpipe.targets.toolchain import find_toolchain
from pocketpipe.targets.x86_64 import LEVELS, Level

GUARD = 64
"""Bytes behind the output that must stay as they are."""

SHAPES = {
    # (height, width), channels in and out, window, stride, groups, dilation, padding (of rows and columns, or of both)
    "rgb": ((8, 8), 3, 16, 3, 1, 1, 1, 1),
    "odd, strided": ((9, 7), 13, 29, 3, 2, 1, 1, 1),
    "pointwise": ((9, 9), 5, 7, 1, 1, 1, 1, 0),
    "few channels": ((9, 11), 10, 8, 3, 1, 1, 1, 1),
    "few channels, dilated": ((12, 12), 9, 5, 3, 1, 1, 2, 2),
    "depthwise": ((8, 8), 20, 20, 3, 1, 20, 1, 1),
    "depthwise, strided, dilated": ((11, 11), 17, 17, 3, 2, 17, 2, 2),
    "depthwise, five rows": ((9, 13), 70, 70, 5, 1, 70, 1, 2),
    "depthwise, one row": ((1, 23), 12, 12, (1, 6), 1, 12, 1, (0, 2)),
    "grouped": ((8, 8), 6, 12, 3, 1, 2, 1, 1),
    "a register and a half": ((9, 9), 13, 24, 3, 1, 1, 1, 1),
    "depthwise, a block and a quarter": ((9, 9), 80, 80, 3, 1, 80, 1, 1),
    "dilated": ((10, 10), 8, 33, 3, 1, 1, 2, 2),
    "in bands": ((70, 40), 24, 67, 3, 1, 1, 1, 1),
    "narrow": ((4, 4), 21, 77, 3, 1, 1, 1, 1),
    "narrow, strided, dilated": ((9, 7), 5, 40, 3, 2, 1, 2, 2),
    "narrow, grouped": ((3, 3), 6, 34, 3, 1, 2, 1, 1),
    "narrow, pointwise": ((5, 3), 10, 37, 1, 1, 1, 1, 0),
    "narrow, pointwise, strided": ((7, 7), 9, 33, 1, 2, 1, 1, 0),
    "narrow and long": ((40, 2), 3, 9, 3, 1, 1, 1, 1),
    "narrow and long, pointwise": ((68, 4), 5, 9, 1, 1, 1, 1, 0),
    "narrow, padded one way": ((5, 4), 11, 18, (3, 2), 1, 1, 1, (1, 0)),
    "row of vectors": ((1, 5), 64, 10, 1, 1, 1, 1, 0),
}


def _bounds(number: int) -> tuple[int, int]:
    """Of every other shape those of a byte, which narrowing keeps by itself."""
    return (-128, 127) if number % 2 else (-120, 127)


def layer(name: str, *, wide: bool) -> tuple[Convolution, Add, IntegerTensor, IntegerTensor]:
    """A convolution with random weights, and an addition to follow; `wide`: factors above a quarter, and tiny ones."""
    (height, width), read, made, windows, stride, groups, dilation, paddings = SHAPES[name]
    window, padding = (pair if isinstance(pair, tuple) else (pair, pair) for pair in (windows, paddings))
    draw = np.random.default_rng(len(name))
    shift = draw.choice([28, 30, 32, 58], made) if wide else draw.integers(38, 44, made)
    requantization = Requantization(
        draw.integers(2**30, 2**31, made).astype(np.int32), shift.astype(np.int32), 3, *_bounds(len(name))
    )
    convolution = Convolution(
        "layer", ("x",), "y",
        weight=draw.integers(-127, 128, (made, *window, read // groups)).astype(np.int8),
        bias=draw.integers(-1000, 1000, made).astype(np.int32),
        strides=(stride, stride), pads=padding * 2, dilations=(dilation, dilation), groups=groups,
        padding_value=-7, requantization=requantization,
    )  # fmt: skip
    addition = Add("sum", ("other", "y"), "z", ((1 << 19) + 77, 1 << 20), 20, (-4, 3), 5, *_bounds(len(name) + 1))
    out = tuple(
        (length + 2 * around - dilation * (taps - 1) - 1) // stride + 1
        for length, around, taps in zip((height, width), padding, window, strict=True)
    )
    return convolution, addition, IntegerTensor((height, width, read), 1.0, 0), IntegerTensor((*out, made), 1.0, 0)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="executes x86-64 code")
@pytest.mark.parametrize("level", [pytest.param(level, id=name) for name, level in LEVELS.items() if name != "v2"])
def test_every_shape_gives_the_references_integers(level: Level, tmp_path: Path) -> None:
    if not cpu_flags().issuperset(level.flags):
        pytest.skip("this CPU does not reach the level")
    cpu = level.cpu()
    # Each shape in one form on each level, and in both over the levels.
    forms = [i + list(LEVELS.values()).index(level) for i in range(len(SHAPES))]
    layers = [(layer(name, wide=form % 2 == 1), form % 2 == 1) for name, form in zip(SHAPES, forms, strict=True)]
    shapes = [geometry(c, x, out, add if adds else None) for (c, add, x, out), adds in layers]
    kernels = {f"layer{i}": kernel(shape, cpu.unit) for i, shape in enumerate(shapes) if shape is not None}
    workspaces = write_object(kernels, cpu, tmp_path / "kernels.o")
    find_toolchain("x86_64").link_library(["kernels.o"], "kernels.so", "{ global: layer*; local: *; };", tmp_path)
    library = ctypes.CDLL(str(tmp_path / "kernels.so"))
    draw = np.random.default_rng(0)
    for i, ((convolution, addition, x, out), adds) in enumerate(layers):
        shape = shapes[i]
        assert shape is not None
        cut = sections(shape, cpu.unit)
        inputs = draw.integers(-128, 128, (1, *x.shape)).astype(np.int8)
        other = draw.integers(-128, 128, (1, *out.shape)).astype(np.int8)
        expected = reference.compute(convolution, inputs)
        if adds:
            expected = reference.compute(addition, other, expected)
        added = addition_parameters(addition, own=1) if adds else ()
        made = np.full(out.elements + GUARD, 77, np.int8)
        arrays = [
            inputs,
            packed_weights(cut, convolution.weight),
            parameters(cut, convolution, added),
            *([np.pad(other.reshape(-1), (0, GUARD))] if adds else []),  # some bytes behind it are read
            made,
            *(np.zeros(size, np.uint8) for size in workspaces[f"layer{i}"]),
        ]
        library[f"layer{i}"](*(array.ctypes.data_as(ctypes.c_void_p) for array in arrays))
        assert np.array_equal(made[:-GUARD], expected.reshape(-1)), (list(SHAPES)[i], adds)
        assert (made[-GUARD:] == 77).all()
