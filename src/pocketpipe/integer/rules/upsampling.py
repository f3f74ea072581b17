"""What makes images larger, out of operators that every target has: pixels out of channels, transposed convolutions.

A transposed convolution of stride s is s convolutions along each axis, one for each remainder of an output's place by
s, whose results lie between each other (Shi et al. 2016, arXiv 1609.07009): no sum runs over zeros that were put in,
and each number is rounded once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pocketpipe.integer.graph import Concatenation, Convolution, Reshape, Shape, Slice
from pocketpipe.integer.lowering import Lowering, label
from pocketpipe.integer.onnx_file import attributes
from pocketpipe.integer.real import Real, Sum, Target
from pocketpipe.integer.rules.moving import side_by_side
from pocketpipe.integer.rules.products import (
    back_to_row,
    bias_of,
    constant_bias,
    int8_of,
    pair,
    row,
    scale_of,
    weight_of,
)
from pocketpipe.integer.rules.registry import rule

if TYPE_CHECKING:
    from onnx import NodeProto


class Along(NamedTuple):
    """A transposed convolution along one axis."""

    length: int
    """Of the input."""
    made: int
    """Outputs."""
    kernel: int
    stride: int
    dilation: int
    cut: int
    """Outputs that its padding takes off at the beginning."""

    @property
    def taps(self) -> int:
        """Weights of each of the `stride` convolutions; those at the end may be zeros."""
        reach = max(self.dilation * (self.kernel - 1) + 1, self.cut + self.made - self.stride * (self.length - 1))
        return -(-reach // self.stride)

    @property
    def convolved(self) -> int:
        """Outputs of each of them."""
        return self.length + self.taps - 1

    def spared(self, remainder: int) -> int:
        """Taps at the beginning of the (turned) kernel of a remainder that are zeros whatever the weights are."""
        own = -(-(self.dilation * (self.kernel - 1) + 1 - remainder) // self.stride)
        return self.taps - max(1, own)


@rule("ConvTranspose")
def transposed_convolution(lowering: Lowering, node: NodeProto) -> None:
    """One- or two-dimensional; one-dimensional as of height 1."""
    weight, bias, given = weight_of(lowering, node, 1, 1), constant_bias(lowering, node), attributes(node)
    if given.get("auto_pad", b"NOTSET") != b"NOTSET" or weight.values.ndim not in (3, 4):
        raise lowering.refusal(node, "only one and two dimensions with explicit pads")
    flat, groups = weight.values.ndim == 3, int(given.get("group", 1))
    source = row(lowering, node, lowering.plain(node)) if flat else lowering.image(node)
    stored = int8_of(lowering, node, weight)
    kernel = stored[:, :, None] if flat else stored
    channels, *axes = lowering.shapes[node.output[0]]
    made = (1, *axes) if flat else tuple(axes)
    rows, columns = _sides(lowering, node, lowering.tensors[source].shape, made, kernel.shape[2:], flat)
    kernels = _kernels(kernel, groups, rows, columns)
    scales = np.tile(np.broadcast_to(scale_of(weight), kernel.shape[1]), len(kernels[0][0]) // kernel.shape[1])
    grown = replace(weight, scale=scales)
    biases = None if bias is None else replace(bias, values=np.resize(bias.values.reshape(-1), len(scales)))
    shape = (made[0], made[1], channels)

    def finish(target: Target, low: int, high: int) -> None:
        x, ended = lowering.tensors[source], f"{target.name}/image" if flat else target.name
        factor = lowering.factor(node, target, x.scale, scales, limits=(low, high))

        def convolved(part: np.ndarray, place: str) -> str:
            below, right = rows.taps - 1, columns.taps - 1
            operator = Convolution(
                f"{label(node)}/{place}", (source,), f"{target.name}/{place}", part,
                bias_of(lowering, node, part, grown, biases, x), (1, 1),
                (part.shape[1] - 1, part.shape[2] - 1, below, right), (1, 1), groups, x.zero_point, factor,
            )  # fmt: skip
            lowering.add(operator, target.tensor((rows.convolved, columns.convolved, len(part)), low, high))
            return operator.output

        wide = (rows.convolved, columns.convolved * columns.stride, channels)
        lines = []
        for r, line in enumerate(kernels):
            parts = [convolved(part, f"{r},{c}") for c, part in enumerate(line)]
            lines.append(interleaved(lowering, f"{target.name}/{r}", parts, wide, 1))
        whole = interleaved(lowering, f"{target.name}/rows", lines, (wide[0] * rows.stride, *wide[1:]), 0)
        ranges = *((each.cut, each.cut + each.made, 1) for each in (rows, columns)), (0, channels, 1)
        name, nothing_goes = label(node), lowering.tensors[whole].shape == shape
        cut = Reshape(name, (whole,), ended, shape) if nothing_goes else Slice(name, (whole,), ended, ranges)
        lowering.add(cut, target.tensor(shape, low, high))
        if flat:
            back_to_row(lowering, node, ended, target.name)

    result = (channels, made[1]) if flat else shape
    lowering.known[node.output[0]] = Sum(result, finish, label(node), image=not flat)


def _sides(
    lowering: Lowering, node: NodeProto, image: Shape, made: Shape, kernel: Shape, flat: bool
) -> tuple[Along, Along]:
    """Rows and columns; `image` (height, width, ...) goes in, `made` (height, width) comes out."""
    given = attributes(node)
    strides, dilations = (pair(given.get(name, [1, 1]), flat) for name in ("strides", "dilations"))
    if "output_shape" in given:  # it takes the place of pads: half of what is too much goes, at the beginning more
        longer = pair(given.get("output_padding", [0, 0]), flat)
        sides = zip(image[:2], made, kernel, strides, dilations, longer, strict=True)
        off = [s * (n - 1) + more + d * (k - 1) + 1 - m for n, m, k, s, d, more in sides]
        if min(off) < 0:
            raise lowering.refusal(node, f"output_shape {given['output_shape']} is larger than what it makes")
        cuts = (0 if flat else off[0] - off[0] // 2, off[1] - off[1] // 2)
    else:
        pads = given.get("pads", [0] * 4)
        cuts = (0, int(pads[0])) if flat else pair(pads, flat)
    first, second = zip(image[:2], made, kernel, strides, dilations, cuts, strict=True)
    return Along(*first), Along(*second)


def _kernels(kernel: np.ndarray, groups: int, rows: Along, columns: Along) -> list[list[np.ndarray]]:
    """For each remainder of a row the convolutions (out, height, width, in / groups) of its columns.

    In one group, and with as many taps, they are one convolution, which makes its columns side by side.
    """
    whole = np.zeros((*kernel.shape[:2], rows.taps * rows.stride, columns.taps * columns.stride), kernel.dtype)
    down, right = (slice(0, each.dilation * each.kernel, each.dilation) for each in (rows, columns))
    whole[:, :, down, right] = kernel

    def convolution(r: int, c: int) -> np.ndarray:
        turned = whole[:, :, r :: rows.stride, c :: columns.stride][:, :, ::-1, ::-1]
        turned = turned[:, :, rows.spared(r) :, columns.spared(c) :]
        of_groups = turned.reshape(groups, -1, *turned.shape[1:]).transpose(0, 2, 3, 4, 1)
        return np.ascontiguousarray(of_groups.reshape(-1, *of_groups.shape[2:]))

    found = [[convolution(r, c) for c in range(columns.stride)] for r in range(rows.stride)]
    alike = len({columns.spared(c) for c in range(columns.stride)}) == 1
    return [[np.concatenate(line)] for line in found] if groups == 1 and alike else found


@rule("DepthToSpace")
def pixels_of_channels(lowering: Lowering, node: NodeProto) -> None:
    """PixelShuffle, and TensorFlow's order of channels."""
    given, tensor = attributes(node), lowering.image(node)
    side = int(given["blocksize"])
    height, width, channels = lowering.tensors[tensor].shape
    kept, by_channel = channels // side**2, given.get("mode", b"DCR") == b"CRD"

    def part(r: int, c: int) -> str:
        number, name = r * side + c, f"{node.output[0]}/{r},{c}"
        own = (number, channels, side**2) if by_channel else (number * kept, (number + 1) * kept, 1)
        lowering.moved(Slice(f"{label(node)}/{r},{c}", (tensor,), name, ((0, height, 1), (0, width, 1), own)),
                       (height, width, kept))  # fmt: skip
        return name

    wide = (height, width * side, kept)
    name = node.output[0]
    lines = [interleaved(lowering, f"{name}/{r}", [part(r, c) for c in range(side)], wide, 1) for r in range(side)]
    as_image(lowering, node, interleaved(lowering, name, lines, (height * side, *wide[1:]), 0))


@rule("SpaceToDepth")
def channels_of_pixels(lowering: Lowering, node: NodeProto) -> None:
    """`pixels_of_channels` undone, in TensorFlow's order of channels."""
    tensor, side = lowering.image(node), int(attributes(node)["blocksize"])
    height, width, channels = lowering.tensors[tensor].shape
    small = (height // side, width // side)

    def part(r: int, c: int) -> str:
        name = f"{node.output[0]}/{r},{c}"
        ranges = ((r, height, side), (c, width, side), (0, channels, 1))
        lowering.moved(Slice(f"{label(node)}/{r},{c}", (tensor,), name, ranges), (*small, channels))
        return name

    parts, name = tuple(part(r, c) for r in range(side) for c in range(side)), node.output[0]
    side_by_side(lowering, label(node), name, parts, axis=3)
    as_image(lowering, node, name)


def as_image(lowering: Lowering, node: NodeProto, tensor: str) -> None:
    """The node's output is this tensor, channels last."""
    lowering.images.add(tensor)
    lowering.known[node.output[0]] = Real(tensor)


def interleaved(lowering: Lowering, name: str, parts: Sequence[str], shape: Shape, axis: int) -> str:
    """The image (height, width, channels) of `shape` whose rows (axis 0) or columns (1) are those of `parts` in turn.

    Of equal images; a single part may have its columns side by side already. `name`: of what is made on the way.
    """
    if len(parts) == 1:
        return lowering.reshaped(parts[0], shape)
    of_one = (prod(shape[: axis + 1]) // len(parts), 1, prod(shape[axis + 1 :]))
    lined = [lowering.reshaped(part, of_one) for part in parts]
    together = (of_one[0], len(parts), of_one[2])
    lowering.add(Concatenation(name, tuple(lined), name, 2), replace(lowering.tensors[parts[0]], shape=together))
    return lowering.reshaped(name, shape)
