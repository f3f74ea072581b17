"""Transposed convolutions, repeated and shuffled pixels, slopes for each channel: as ONNX Runtime computes them, and
the same integers from the reference, from C, and from what is delivered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from exporting.test_qdq import _inputs, _quantized
from integer.natively import natively
from integer.qdq import File
from integer.test_lowering import agrees, of_opset, some
from integer.test_property import on_x86
from pocketpipe.errors import UserError
from pocketpipe.exporting.onnx import export_onnx
from pocketpipe.integer import reference
from pocketpipe.integer.graph import Convolution
from pocketpipe.integer.lowering import lower
from pocketpipe.targets.base import TARGETS


@st.composite
def _transposed(draw: st.DrawFn) -> dict[str, Any]:
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    axes = draw(st.sampled_from([1, 2, 2]))
    strides = [draw(st.integers(1, 3)) for _ in range(axes)]
    kernels = [draw(st.integers(1, 4)) for _ in range(axes)]
    return {
        "seed": draw(st.integers(0, 999)),
        "channels": groups * draw(st.integers(1, 5)),
        "made": draw(st.integers(1, 5)),
        "zero": draw(st.integers(-128, 127)),
        "per_channel": draw(st.booleans()),
        "sizes": [draw(st.integers(1, 5)) for _ in range(axes)],
        "given": {
            "strides": strides,
            "kernel_shape": kernels,
            "dilations": [draw(st.integers(1, 2)) for _ in range(axes)],
            "pads": [draw(st.integers(0, kernel - 1)) for kernel in kernels] * 2,
            "output_padding": [draw(st.integers(0, stride - 1)) for stride in strides],
            "group": groups,
        },
    }


@settings(max_examples=40, deadline=None)
@given(_transposed())
def test_any_transposed_convolution(c: dict[str, Any]) -> None:
    random, attributes = np.random.default_rng(c["seed"]), c["given"]
    shape = (c["channels"], *c["sizes"])
    spans = zip(c["sizes"], *(attributes[n] for n in ("strides", "dilations", "kernel_shape", "output_padding")),
                attributes["pads"], strict=False)  # fmt: skip
    if any((n - 1) * stride + dilation * (kernel - 1) + 1 + more - 2 * pad < 1
           for n, stride, dilation, kernel, more, pad in spans):  # fmt: skip
        return
    file = File(shape)
    x = file.on_grid("input", 0.0503, c["zero"])
    scales = random.uniform(0.001, 0.02, c["made"]) if c["per_channel"] else np.array(0.0103)
    weight = file.weight(
        random.integers(-127, 128, (c["channels"], c["made"], *attributes["kernel_shape"])), scales, axis=1
    )
    units = 0.0503 * np.tile(np.broadcast_to(scales, c["made"]), attributes["group"])
    bias = file.constant((np.round(random.normal(0, 0.2, len(units)) / units) * units).astype(np.float32))
    y = file.node("ConvTranspose", x, weight, bias, **attributes)
    agrees(file.bytes(file.on_grid(y, 0.1009, -7)), some(c["seed"], *shape), share=0.01)


@pytest.mark.parametrize("size", [(8, 7), (9, 8), (7, 9), (6, 5)])
@pytest.mark.parametrize("padding", [[0, 0], [1, 0]])
def test_an_output_shape_takes_the_place_of_pads(size: tuple[int, int], padding: list[int]) -> None:
    """As tf2onnx writes them: the half of what is too much goes on either side, the odd line at the beginning."""
    file = File((3, 4, 4))
    weight = file.weight(np.random.default_rng(0).integers(-127, 128, (3, 5, 3, 3)), np.full(5, 0.0103), axis=1)
    y = file.node(
        "ConvTranspose", file.on_grid("input", 0.0503, 4), weight, strides=[2, 2], kernel_shape=[3, 3],
        output_shape=list(size), output_padding=padding,
    )  # fmt: skip
    graph = agrees(file.bytes(file.on_grid(y, 0.1009, -7)), some(3, 3, 4, 4))
    assert graph.tensors[graph.output].shape == (5, *size)


def test_an_output_shape_beyond_what_is_made_is_refused() -> None:
    file = File((3, 4, 4))
    weight = file.weight(np.ones((3, 5, 3, 3)), np.full(5, 0.01), axis=1)
    x, given = file.on_grid("input", 0.05), {"strides": [2, 2], "kernel_shape": [3, 3], "output_shape": [11, 8]}
    y = file.node("ConvTranspose", x, weight, **given)
    with pytest.raises(UserError, match=r"\(ConvTranspose\): output_shape \[11, 8\] is larger than what it makes"):
        lower(file.bytes(file.on_grid(y, 0.1)))


def test_a_transposed_convolution_multiplies_no_zeros_that_were_put_in() -> None:
    file = File((3, 5, 5))
    weight = file.weight(np.ones((3, 4, 2, 2)), np.full(4, 0.01), axis=1)
    y = file.node("ConvTranspose", file.on_grid("input", 0.05), weight, strides=[2, 2], kernel_shape=[2, 2])
    found = [each for each in lower(file.bytes(file.on_grid(y, 0.1))).operators if isinstance(each, Convolution)]
    assert sum(each.weight.size for each in found) == 3 * 4 * 2 * 2


def test_a_kernel_that_the_stride_does_not_divide_has_no_weights_of_zero() -> None:
    file = File((3, 5, 5))
    weight = file.weight(np.ones((3, 4, 3, 3)), np.full(4, 0.01), axis=1)
    x = file.on_grid("input", 0.05)
    y = file.node("ConvTranspose", x, weight, strides=[2, 2], kernel_shape=[3, 3], pads=[1] * 4, output_padding=[1, 1])
    graph = agrees(file.bytes(file.on_grid(y, 0.1)), some(0, 3, 5, 5))
    found = [each.weight for each in graph.operators if isinstance(each, Convolution)]
    assert sum(np.count_nonzero(each) for each in found) == sum(each.size for each in found) == 3 * 4 * 3 * 3


@pytest.mark.parametrize("factors", [(2, 2), (1, 3), (4, 1)])
@pytest.mark.parametrize(("place", "rounding"), [("asymmetric", "floor"), ("half_pixel", "round_prefer_floor")])
def test_the_nearest_pixel_is_repeated(factors: tuple[int, int], place: str, rounding: str) -> None:
    file = File((3, 4, 5))
    scales = file.constant(np.array([1, 1, *factors], np.float32))
    x = file.on_grid("input", 0.0503, 4)
    y = file.node("Resize", x, "", scales, mode="nearest", coordinate_transformation_mode=place, nearest_mode=rounding)
    agrees(file.bytes(file.on_grid(y, 0.0503, 4)), some(1, 3, 4, 5))


@pytest.mark.parametrize("factors", [(2, 2), (1, 3), (4, 1), (6, 2), (5, 5)])
@pytest.mark.parametrize("place", ["half_pixel", "pytorch_half_pixel", "asymmetric"])
@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 1, 1)])
def test_what_lies_between_two_pixels(factors: tuple[int, int], place: str, shape: tuple[int, ...]) -> None:
    file = File(shape)
    scales = file.constant(np.array([1, 1, *factors], np.float32))
    y = file.node("Resize", file.on_grid("input", 0.0503, 4), "", scales, mode="linear",
                  coordinate_transformation_mode=place)  # fmt: skip
    agrees(file.bytes(file.on_grid(y, 0.0407, -9)), some(1, *shape), share=0.02)


def test_what_lies_between_two_numbers_of_a_sequence() -> None:
    file = File((3, 5))
    scales = file.constant(np.array([1, 1, 2], np.float32))
    y = file.node("Resize", file.on_grid("input", 0.0503, 4), "", scales, mode="linear")
    agrees(file.bytes(file.on_grid(y, 0.0407, -9)), some(1, 3, 5), share=0.02)


def test_before_opset_11_corners_are_where_pixels_lie() -> None:
    file = File((3, 4, 5))
    scales = file.constant(np.array([1, 1, 2, 2], np.float32))
    y = file.node("Resize", file.on_grid("input", 0.0503, 4), scales, mode="linear")
    agrees(of_opset(file.bytes(file.on_grid(y, 0.0407, -9)), 10), some(1, 3, 4, 5), share=0.02)


def test_steps_too_fine_for_eight_bits_are_refused() -> None:
    file = File((2, 4, 4))
    scales = file.constant(np.array([1, 1, 8, 8], np.float32))
    y = file.node("Resize", file.on_grid("input", 0.05), "", scales, mode="linear")
    with pytest.raises(UserError, match=r"linear by \(8, 8\) at once is finer than 8 bits; in two steps it is not"):
        lower(file.bytes(file.on_grid(y, 0.05)))


@on_x86
def test_a_tensor_may_be_enlarged_twice(tmp_path: Path) -> None:
    file = File((3, 2, 4))
    x, options = file.on_grid("input", 0.0503, 4), {"mode": "nearest", "coordinate_transformation_mode": "asymmetric"}
    large, larger = (
        file.node("Resize", x, "", file.constant(np.array([1, 1, f, f], np.float32)), nearest_mode="floor", **options)
        for f in (2, 4)
    )
    pooled = file.on_grid(file.node("MaxPool", larger, kernel_shape=[2, 2], strides=[2, 2]), 0.0503, 4)
    both = file.on_grid(file.node("Concat", large, pooled, axis=1), 0.0503, 4)
    graph = agrees(file.bytes(both), some(1, 3, 2, 4))
    entering = graph.quantized(some(1, 3, 2, 4))
    (run,) = natively([graph], tmp_path)
    assert np.array_equal(run(entering), reference.run(graph, entering))


@pytest.mark.parametrize("mode", ["CRD", "DCR"])
def test_pixels_are_made_of_channels(mode: str) -> None:
    file = File((12, 3, 4))
    y = file.node("DepthToSpace", file.on_grid("input", 0.0503, 4), blocksize=2, mode=mode)
    agrees(file.bytes(file.on_grid(y, 0.0503, 4)), some(2, 12, 3, 4))


@pytest.mark.parametrize("side", [2, 3])
def test_channels_are_made_of_pixels(side: int) -> None:
    file = File((3, 2 * side, 3 * side))
    y = file.node("SpaceToDepth", file.on_grid("input", 0.0503, 4), blocksize=side)
    agrees(file.bytes(file.on_grid(y, 0.0503, 4)), some(2, 3, 2 * side, 3 * side))


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_sequences_are_repeated_as_well(factor: int) -> None:
    file = File((3, 5))
    scales = file.constant(np.array([1, 1, factor], np.float32))
    x, places = file.on_grid("input", 0.0503, 4), {"coordinate_transformation_mode": "asymmetric"}
    y = file.node("Resize", x, "", scales, mode="nearest", nearest_mode="floor", **places)
    agrees(file.bytes(file.on_grid(y, 0.0503, 4)), some(1, 3, 5))


@pytest.mark.parametrize("shape", [(5, 4, 3), (5, 4), (5,)])
def test_slopes_for_each_channel(shape: tuple[int, ...]) -> None:
    file = File(shape)
    slopes = np.array([0.25, -0.5, 0.0, 1.7, 0.013], np.float32).reshape(-1, *(1,) * (len(shape) - 1))
    y = file.node("PRelu", file.on_grid("input", 0.0503, 9), file.constant(slopes))
    agrees(file.bytes(file.on_grid(y, 0.0407, -11)), some(3, *shape), share=0.01)


def test_one_slope_is_a_table() -> None:
    file = File((6, 3, 3))
    y = file.node("PRelu", file.on_grid("input", 0.0503, 9), file.constant(np.full((1, 1, 1), 0.25, np.float32)))
    assert len(agrees(file.bytes(file.on_grid(y, 0.0407, -11)), some(4, 6, 3, 3)).operators) == 1


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"mode": "cubic"}, r"\(Resize\): only nearest numbers and linear interpolation"),
        (
            {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
            r"\(Resize\): only nearest .* \(PyTorch: align_corners=False\)",
        ),
        ({"mode": "nearest", "nearest_mode": "ceil"}, r"\(Resize\): its nearest numbers \(half_pixel, ceil\)"),
        ({"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}, "whole factors"),
    ],
)
def test_other_ways_of_resizing_are_refused(given: dict[str, str], reason: str) -> None:
    file = File((2, 4, 4))
    factors = file.constant(np.array([1, 1, 1.5, 1.5], np.float32))
    y = file.node("Resize", file.on_grid("input", 0.05), "", factors, **given)
    with pytest.raises(UserError, match=reason):
        lower(file.bytes(file.on_grid(y, 0.05)))


class Decoder(nn.Module):
    """A U-Net in small: two ways down, two ways up, what was left behind joins again."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, 6, 3, padding=1)
        self.down = nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.PReLU(8))
        self.deeper = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU())
        self.up = nn.ConvTranspose2d(12, 8, 2, 2)
        self.join = nn.Conv2d(16, 24, 3, padding=1)
        self.shuffle = nn.PixelShuffle(2)
        self.head = nn.Conv2d(12, 2, 1)
        self.large = nn.Upsample(scale_factor=2, mode="bilinear")

    def forward(self, x: Tensor) -> Tensor:
        first = functional.relu(self.enter(x))
        second = self.down(first)
        joined = functional.relu(self.join(torch.cat([self.up(self.deeper(second)), second], 1)))
        whole = torch.cat([self.shuffle(joined), functional.interpolate(first[:, :, ::2, ::2], scale_factor=2)], 1)
        result: Tensor = self.large(self.head(whole))
        return result


@on_x86
def test_a_decoder_goes_all_the_way(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape = (3, 8, 12)
    quantized = _quantized(Decoder().eval(), shape)
    file = export_onnx(quantized, shape)
    graph = agrees(file, _inputs(shape), share=0.01, steps=2)
    entering = graph.quantized(_inputs(shape))
    expected = reference.run(graph, entering)
    (run,) = natively([graph], tmp_path)
    assert np.array_equal(run(entering), expected)
    assert np.array_equal(TARGETS.resolve("x86_64").run_integers(graph, entering), expected)
