"""Averages and maxima of windows."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from pocketpipe.integer.graph import IntegerTensor, MaxPool, Reshape, Shape, SumPool
from pocketpipe.integer.lowering import Lowering, last
from pocketpipe.integer.real import Sum, Target
from pocketpipe.integer.rules.registry import attributes, label, rule

if TYPE_CHECKING:
    from onnx import NodeProto


@rule("AveragePool", "GlobalAveragePool", "ReduceMean")
def average(lowering: Lowering, node: NodeProto) -> None:
    """A sum over windows; their size is divided by in the multiplier."""
    tensor = lowering.image(node)
    before = lowering.tensors[tensor].shape
    shape = lowering.shapes[node.output[0]]
    window, strides, pads = _average_windows(lowering, node, before)
    rows, columns = ((before[i] + pads[i] + pads[i + 2] - window[i]) // strides[i] + 1 for i in range(2))
    pooled, image = (rows, columns, before[2]), len(shape) == 3

    def finish(target: Target, low: int, high: int) -> None:
        x = lowering.tensors[tensor]
        factor = lowering.factor(target, x.scale, 1 / prod(window), high_low=(low, high))
        name = target.name if image else f"{target.name}/pooled"
        made = IntegerTensor(pooled, target.scale, target.zero_point, low, high)
        lowering.add(SumPool(label(node), (tensor,), name, window, strides, pads, x.zero_point, factor), made)
        if not image:
            lowering.operators.append(Reshape(f"{label(node)}/shape", (name,), target.name, shape))

    lowering.known[node.output[0]] = Sum(pooled if image else shape, finish, label(node), image=image)


def _average_windows(
    lowering: Lowering, node: NodeProto, shape: Shape
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int, int, int]]:
    given = attributes(node)
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
    return (shape[0], shape[1]), (1, 1), (0, 0, 0, 0)


@rule("MaxPool")
def max_pool(lowering: Lowering, node: NodeProto) -> None:
    """The order of the integers is that of the real numbers."""
    given, tensor = attributes(node), lowering.image(node)
    if given.get("ceil_mode", 0) or any(d != 1 for d in given.get("dilations", [])):
        raise lowering.refusal(node, "only two dimensions without ceil_mode and dilations")
    window, strides = tuple(given["kernel_shape"]), tuple(given.get("strides", [1, 1]))
    top, left, bottom, right = given.get("pads", [0, 0, 0, 0])
    operator = MaxPool(label(node), (tensor,), node.output[0], (window[0], window[1]), (strides[0], strides[1]),
                       (top, left, bottom, right))  # fmt: skip
    lowering.moved(node, operator, last(lowering.shapes[node.output[0]]))
