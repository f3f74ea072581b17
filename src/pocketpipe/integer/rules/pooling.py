"""Averages and maxima of windows."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from pocketpipe.integer.fixed_point import Requantization
from pocketpipe.integer.graph import IntegerTensor, MaxPool, Reshape, Shape, SumPool
from pocketpipe.integer.lowering import Lowering
from pocketpipe.integer.real import Sum, Target
from pocketpipe.integer.rules.registry import attributes, label, rule

if TYPE_CHECKING:
    from onnx import NodeProto


@rule("AveragePool", "GlobalAveragePool", "ReduceMean")
def average(lowering: Lowering, node: NodeProto) -> None:
    """A sum over windows; their size is divided by in the multiplier."""
    tensor = lowering.plain(node)
    before = lowering.tensors[tensor].shape
    shape = lowering.shapes[node.output[0]]
    window, strides, pads = _average_windows(lowering, node, before)

    def finish(target: Target, low: int, high: int) -> None:
        x = lowering.tensors[tensor]
        factor: Requantization = lowering.factor(target, x.scale, 1 / prod(window), high_low=(low, high))
        pooled = tuple((b + pads[i] + pads[i + 2] - window[i]) // strides[i] + 1 for i, b in enumerate(before[1:]))
        whole = (before[0], *pooled)
        name = target.name if whole == shape else f"{target.name}/pooled"
        made = IntegerTensor(whole, target.scale, target.zero_point, low, high)
        lowering.add(SumPool(label(node), (tensor,), name, window, strides, pads, x.zero_point, factor), made)
        if whole != shape:
            lowering.operators.append(Reshape(f"{label(node)}/shape", (name,), target.name, shape))

    lowering.known[node.output[0]] = Sum(shape, finish, label(node))


def _average_windows(
    lowering: Lowering, node: NodeProto, shape: Shape
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int, int, int]]:
    given = attributes(node)
    if len(shape) != 3:
        raise lowering.refusal(node, "only over the two axes of images")
    if node.op_type == "AveragePool":
        pads = tuple(given.get("pads", [0, 0, 0, 0]))
        if (any(pads) and not given.get("count_include_pad", 0)) or given.get("ceil_mode", 0):
            raise lowering.refusal(node, "windows of several sizes (pads that are not counted, ceil_mode)")
        top, left, bottom, right = pads
        window, strides = tuple(given["kernel_shape"]), tuple(given.get("strides", [1, 1]))
        return (window[0], window[1]), (strides[0], strides[1]), (top, left, bottom, right)
    if node.op_type == "ReduceMean":
        axes = lowering.constant(node, 1)
        listed = axes.values.tolist() if axes is not None else given.get("axes", [])
        if sorted(axis % 4 for axis in listed) != [2, 3]:
            raise lowering.refusal(node, "a mean over other axes than height and width")
    return (shape[1], shape[2]), (1, 1), (0, 0, 0, 0)


@rule("MaxPool")
def max_pool(lowering: Lowering, node: NodeProto) -> None:
    """The order of the integers is that of the real numbers."""
    given, tensor = attributes(node), lowering.plain(node)
    if (
        len(lowering.tensors[tensor].shape) != 3
        or given.get("ceil_mode", 0)
        or any(d != 1 for d in given.get("dilations", []))
    ):
        raise lowering.refusal(node, "only two dimensions without ceil_mode and dilations")
    window, strides = tuple(given["kernel_shape"]), tuple(given.get("strides", [1, 1]))
    top, left, bottom, right = given.get("pads", [0, 0, 0, 0])
    operator = MaxPool(label(node), (tensor,), node.output[0], (window[0], window[1]), (strides[0], strides[1]),
                       (top, left, bottom, right))  # fmt: skip
    lowering.moved(node, operator, lowering.shapes[node.output[0]])
