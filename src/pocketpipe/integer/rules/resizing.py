"""Images and sequences made larger by whole factors: rows repeated, or what lies between two."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from pocketpipe.integer.graph import Convolution, Reshape, Slice
from pocketpipe.integer.lowering import Lowering, label
from pocketpipe.integer.onnx_file import attributes
from pocketpipe.integer.real import Real, Sum, Target
from pocketpipe.integer.rules.affine import LARGEST_WEIGHT
from pocketpipe.integer.rules.moving import side_by_side
from pocketpipe.integer.rules.products import back_to_row, row
from pocketpipe.integer.rules.registry import rule
from pocketpipe.integer.rules.upsampling import as_image, interleaved

if TYPE_CHECKING:
    from onnx import NodeProto

HALF_PIXEL, ASYMMETRIC = b"half_pixel", b"asymmetric"
"""Where a made pixel lies: by its middle, or by its first corner."""
REPEATING = {
    (ASYMMETRIC, b"floor"),
    *((HALF_PIXEL, rounding) for rounding in (b"round_prefer_floor", b"round_prefer_ceil")),
}
"""(coordinate_transformation_mode, nearest_mode) of Resize by which a whole factor repeats each row so many times."""
SAYS_PLACES = 11
"""The opset since which Resize says it; it was `ASYMMETRIC` before."""


@rule("Resize", "Upsample")
def resize(lowering: Lowering, node: NodeProto) -> None:
    """By whole factors: each number several times, or what lies between two. Sequences as images of height 1."""
    flat = len(lowering.shapes[node.output[0]]) == 2
    tensor = row(lowering, node, lowering.plain(node)) if flat else lowering.image(node)
    mode, place = _mode_and_place(lowering, node)
    before, after = lowering.tensors[tensor].shape, lowering.shapes[node.output[0]]
    after = (after[0], 1, after[1]) if flat else after
    height, width, channels = (*after[1:], after[0]) if len(after) == 3 else (0, 0, 0)
    scales = lowering.constant(node, 1 if node.op_type == "Upsample" else 2)
    fraction = scales is not None and bool(np.any(scales.values % 1))
    if not height or channels != before[2] or height % before[0] or width % before[1] or fraction:
        raise lowering.refusal(node, f"from {before[:2]} to {after[1:]}, only whole factors of height and width")
    name, factors = node.output[0], (height // before[0], width // before[1])
    if mode == b"linear":
        lowering.known[name] = _between(lowering, node, tensor, factors, place, flat)
        return
    wide = interleaved(lowering, f"{name}/columns", [tensor] * factors[1], (before[0], width, channels), 1)
    if flat:
        back_to_row(lowering, node, wide, name)
        lowering.known[name] = Real(name)
        return
    as_image(lowering, node, interleaved(lowering, name, [wide] * factors[0], (height, width, channels), 0))


def _mode_and_place(lowering: Lowering, node: NodeProto) -> tuple[bytes, bytes]:
    """(mode, coordinate_transformation_mode). Raises UserError for those that have no form."""
    given = attributes(node)
    mode, place, rounding = given.get("mode", b"nearest"), ASYMMETRIC, b"floor"
    if node.op_type == "Resize" and lowering.opset >= SAYS_PLACES:
        place = given.get("coordinate_transformation_mode", HALF_PIXEL).removeprefix(b"pytorch_")
        rounding = given.get("nearest_mode", b"round_prefer_floor")
    if mode == b"nearest" and (place, rounding) not in REPEATING:
        raise lowering.refusal(node, f"its nearest numbers ({place.decode()}, {rounding.decode()}) repeat none evenly")
    if mode not in (b"nearest", b"linear") or (mode == b"linear" and place not in (HALF_PIXEL, ASYMMETRIC)):
        raise lowering.refusal(node, "only nearest numbers and linear interpolation (PyTorch: align_corners=False)")
    return mode, place


def _between(
    lowering: Lowering, node: NodeProto, tensor: str, factors: tuple[int, int], place: bytes, flat: bool
) -> Sum:
    """Linear interpolation of an image: a depthwise convolution for each remainder of a made pixel's place, of weights
    that are whole numbers; its edges are repeated before. Each number is rounded once.
    """
    rows, columns = (_taps(factor, place) for factor in factors)
    if rows.max() * columns.max() > LARGEST_WEIGHT:
        raise lowering.refusal(node, f"linear by {factors} at once is finer than 8 bits; in two steps it is not")
    height, width, channels = lowering.tensors[tensor].shape
    source = tensor
    for axis, taps in ((0, rows), (1, columns)):
        source = _edges_repeated(lowering, f"{node.output[0]}/edges {axis}", source, axis, taps.shape[1] // 2)
    wide = (height, width * factors[1], channels)
    shape = (height * factors[0], *wide[1:])

    def finish(target: Target, low: int, high: int) -> None:
        x, one = lowering.tensors[source], int(rows[0].sum() * columns[0].sum())
        bias = np.full(channels, -x.zero_point * one, np.int32)
        factor = lowering.factor(node, target, x.scale, 1 / one, limits=(low, high))

        def convolved(r: int, c: int) -> str:
            place = f"{r},{c}"
            weight = np.broadcast_to(np.outer(rows[r], columns[c])[None, :, :, None].astype(np.int8),
                                     (channels, len(rows[r]), len(columns[c]), 1))  # fmt: skip
            operator = Convolution(
                f"{label(node)}/{place}", (source,), f"{target.name}/{place}", np.ascontiguousarray(weight),
                bias, (1, 1), (0, 0, 0, 0), (1, 1), channels, x.zero_point, factor,
            )  # fmt: skip
            lowering.add(operator, target.tensor((height, width, channels), low, high))
            return operator.output

        lines = [
            interleaved(lowering, f"{target.name}/{r}", [convolved(r, c) for c in range(factors[1])], wide, 1)
            for r in range(factors[0])
        ]
        whole = interleaved(lowering, f"{target.name}/rows", lines, shape, 0)
        ended = f"{target.name}/image" if flat else target.name
        lowering.add(Reshape(label(node), (whole,), ended, shape), target.tensor(shape, low, high))
        if flat:
            back_to_row(lowering, node, ended, target.name)

    return Sum((channels, shape[1]) if flat else shape, finish, label(node), image=not flat)


def _taps(factor: int, place: bytes) -> np.ndarray:
    """(factor, 3), or (1, 1) where nothing is made: what the pixel before, itself and the one behind count.

    >>> _taps(2, HALF_PIXEL).tolist(), _taps(3, ASYMMETRIC).tolist()
    ([[1, 3, 0], [0, 3, 1]], [[0, 3, 0], [0, 2, 1], [0, 1, 2]])
    """
    if factor == 1:
        return np.ones((1, 1), np.int64)
    made = np.arange(factor)
    one, ahead = (2 * factor, 2 * made + 1 - factor) if place == HALF_PIXEL else (factor, made)
    return np.stack([np.maximum(-ahead, 0), one - abs(ahead), np.maximum(ahead, 0)], axis=1)


def _edges_repeated(lowering: Lowering, name: str, tensor: str, axis: int, times: int) -> str:
    """The image with its first and last row (axis 0) or column (1) once more, unless `times` is 0."""
    if times == 0:
        return tensor
    image = lowering.tensors[tensor]

    def line(at: int, which: str) -> str:
        ranges = tuple((at, at + 1, 1) if each == axis else (0, size, 1) for each, size in enumerate(image.shape))
        made = replace(image, shape=tuple(1 if each == axis else size for each, size in enumerate(image.shape)))
        lowering.add(Slice(f"{name}/{which}", (tensor,), f"{name}/{which}", ranges), made)
        return f"{name}/{which}"

    parts = (line(0, "first"), tensor, line(image.shape[axis] - 1, "last"))
    side_by_side(lowering, name, name, parts, axis + 1)
    return name
