"""Averages and maxima of windows, and over whole axes. What is no image is read as one of a single channel."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from pocketpipe.integer.graph import MaxPool, Reshape, Shape, SumPool
from pocketpipe.integer.lowering import Lowering, label
from pocketpipe.integer.onnx_file import attributes
from pocketpipe.integer.real import Real, Sum, Target
from pocketpipe.integer.rules.reaching import reach
from pocketpipe.integer.rules.registry import rule

if TYPE_CHECKING:
    from onnx import NodeProto


@dataclass(frozen=True)
class Windows:
    """Which windows of an image, stored channels last, a node reads."""

    box: Shape
    """The input as the image that is read."""
    size: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)

    @property
    def pooled(self) -> Shape:
        """The image that comes out."""
        rows, columns = (
            (self.box[i] + self.pads[i] + self.pads[i + 2] - self.size[i]) // self.strides[i] + 1 for i in range(2)
        )
        return rows, columns, self.box[2]


@rule("AveragePool", "GlobalAveragePool", "ReduceMean", "ReduceSum")
def average(lowering: Lowering, node: NodeProto) -> None:
    """A sum over windows; their size is divided by in the multiplier, unless the sum itself is wanted."""
    tensor, windows = _windows(lowering, node)
    _refuse_several_sizes(lowering, node, windows)
    shape, image = _stored_result(lowering, node, tensor, windows)
    divisor = 1 if node.op_type == "ReduceSum" else prod(windows.size)

    def finish(target: Target, low: int, high: int) -> None:
        x = lowering.tensors[tensor]
        factor = lowering.factor(node, target, x.scale, 1 / divisor, limits=(low, high))
        name = target.name if windows.pooled == shape else f"{target.name}/pooled"
        source = lowering.reshaped(tensor, windows.box)
        operator = SumPool(label(node), (source,), name, windows.size, windows.strides, windows.pads, x.zero_point,
                           factor)  # fmt: skip
        lowering.add(operator, target.tensor(windows.pooled, low, high))
        if windows.pooled != shape:
            lowering.ended(Reshape(f"{label(node)}/shape", (name,), target.name, shape))

    lowering.known[node.output[0]] = Sum(shape, finish, label(node), image=image)


def _refuse_several_sizes(lowering: Lowering, node: NodeProto, windows: Windows) -> None:
    """One multiplier divides by the size of all windows: none may have pads that are not counted."""
    given = attributes(node)
    by_ceil = given.get("ceil_mode", 0) and sum(windows.pads) > sum(given.get("pads", []))
    if by_ceil or (any(windows.pads) and not given.get("count_include_pad", 0)):
        hint = "count them (`count_include_pad=True`, no `ceil_mode`), or choose windows that fit"
        raise lowering.refusal(node, f"windows of several sizes (pads that are not counted); {hint}")


@rule("MaxPool", "GlobalMaxPool", "ReduceMax")
def largest(lowering: Lowering, node: NodeProto) -> None:
    """The order of the integers is that of the real numbers."""
    tensor, windows = _windows(lowering, node)
    shape, image = _stored_result(lowering, node, tensor, windows)
    name = node.output[0] if windows.pooled == shape else f"{node.output[0]}/pooled"
    source = lowering.reshaped(tensor, windows.box)
    operator = MaxPool(label(node), (source,), name, windows.size, windows.strides, windows.pads)
    lowering.moved(operator, windows.pooled)
    if windows.pooled != shape:
        lowering.moved(Reshape(f"{label(node)}/shape", (name,), node.output[0], shape), shape)
    if image:
        lowering.images.add(node.output[0])
    lowering.known[node.output[0]] = Real(node.output[0])


def _windows(lowering: Lowering, node: NodeProto) -> tuple[str, Windows]:
    """(the integer tensor that is read, as it is stored; the windows)."""
    given = attributes(node)
    if any(d != 1 for d in given.get("dilations", [])):
        raise lowering.refusal(node, "windows with dilations")
    if node.op_type in ("AveragePool", "MaxPool"):
        if len(given["kernel_shape"]) == 1:
            return _of_sequence(lowering, node)
        tensor = lowering.image(node)
        (height, width), (down, right) = given["kernel_shape"], given.get("strides", [1, 1])
        box = lowering.tensors[tensor].shape
        made = lowering.shapes[node.output[0]][1:]
        (top, left), (bottom, behind) = reach(lowering, node, box[:2], made, (height, width), (down, right))
        return tensor, Windows(box, (height, width), (down, right), (top, left, bottom, behind))
    rank = len(lowering.tensors[lowering.stored(node)].shape) + 1
    axes = list(range(2, rank))
    if node.op_type.startswith("Reduce"):
        listed = lowering.constant(node, 1)
        axes = sorted(int(axis) % rank for axis in (listed.values if listed is not None else given.get("axes", [])))
    if axes == [2, 3] and rank == 4:
        tensor = lowering.image(node)
        height, width, _ = lowering.tensors[tensor].shape
        return tensor, Windows(lowering.tensors[tensor].shape, (height, width))
    if not axes or axes[0] == 0 or axes != list(range(axes[0], axes[-1] + 1)):
        raise lowering.refusal(node, "over the batch axis, or over axes that do not lie side by side")
    tensor = lowering.plain(node)
    shape = lowering.tensors[tensor].shape
    outer, reduced, inner = (
        prod(part) for part in (shape[: axes[0] - 1], shape[axes[0] - 1 : axes[-1]], shape[axes[-1] :])
    )
    return tensor, Windows((outer, reduced, inner), (1, reduced))


def _of_sequence(lowering: Lowering, node: NodeProto) -> tuple[str, Windows]:
    """One-dimensional windows: each channel is a row of the image."""
    given, tensor = attributes(node), lowering.plain(node)
    (length,), (stride,) = given["kernel_shape"], given.get("strides", [1])
    box = (*lowering.tensors[tensor].shape, 1)
    made = lowering.shapes[node.output[0]][1:]
    (before,), (after,) = reach(lowering, node, box[1:2], made, (length,), (stride,))
    return tensor, Windows(box, (1, length), (1, stride), (0, before, 0, after))


def _stored_result(lowering: Lowering, node: NodeProto, tensor: str, windows: Windows) -> tuple[Shape, bool]:
    """(shape as it is stored, whether that is channels last)."""
    in_file = lowering.shapes[node.output[0]]
    image = tensor in lowering.images and len(in_file) == 3
    return (windows.pooled if image else in_file), image
