"""What only moves numbers: reshapes, slices, pads, concatenations."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from pocketpipe.integer.graph import Concatenation, IntegerTensor, Pad, Reshape, Shape, Slice, Transpose
from pocketpipe.integer.lowering import Lowering, last
from pocketpipe.integer.real import Constant, Sum, Target
from pocketpipe.integer.rules.registry import attributes, label, rule

if TYPE_CHECKING:
    from onnx import NodeProto


@rule("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(lowering: Lowering, node: NodeProto) -> None:
    """The same numbers in another shape. A sum that waits is finished first, at its own shape."""
    shape = lowering.shapes[node.output[0]]
    value = lowering.known.get(node.input[0])
    if isinstance(value, Sum):
        inner = value

        def finish(target: Target, low: int, high: int) -> None:
            name = f"{target.name}/before"
            inner.finish(replace(target, name=name), low, high)
            if inner.image:
                lowering.images.add(name)
                name = lowering.turn(name)
            lowering.operators.append(Reshape(label(node), (name,), target.name, shape))

        lowering.known[node.output[0]] = Sum(shape, finish, label(node), low=inner.low, high=inner.high)
        return
    lowering.moved(node, Reshape(label(node), (lowering.plain(node),), node.output[0], shape), shape)


@rule("Identity", "Dropout", "Cast")
def identity(lowering: Lowering, node: NodeProto) -> None:
    """Nothing happens."""
    source = node.input[0]
    if source in lowering.known:
        lowering.known[node.output[0]] = lowering.known[source]
    if source in lowering.quantized:
        lowering.quantized[node.output[0]] = lowering.quantized[source]


@rule("Transpose")
def transpose(lowering: Lowering, node: NodeProto) -> None:
    """The batch must stay first. Of a constant it is done at once."""
    order = attributes(node).get("perm")
    constant = lowering.constant(node, 0)
    if constant is not None:
        turned = None if constant.quantized is None else constant.quantized.transpose(order)
        lowering.known[node.output[0]] = Constant(constant.values.transpose(order), turned, constant.scale)
        return
    if order is None or order[0] != 0:
        raise lowering.refusal(node, "moves the batch axis")
    operator = Transpose(label(node), (lowering.plain(node),), node.output[0], tuple(order))
    lowering.moved(node, operator, lowering.shapes[node.output[0]])


@rule("Pad")
def pad(lowering: Lowering, node: NodeProto) -> None:
    """With a constant that is on the grid."""
    tensor = lowering.stored(node)
    amounts, value, axes = lowering.constant(node, 1), lowering.constant(node, 2), lowering.constant(node, 3)
    if attributes(node).get("mode", b"constant") != b"constant" or amounts is None or axes is not None:
        raise lowering.refusal(node, "only constant pads, given for all axes")
    x = lowering.tensors[tensor]
    real = 0.0 if value is None else float(value.values)
    integer = int(np.clip(np.floor(real / x.scale + 0.5) + x.zero_point, -128, 127))
    before, after = np.split(amounts.values.astype(int), 2)
    if before[0] or after[0] or min(*before, *after) < 0:
        raise lowering.refusal(node, "pads the batch axis, or cuts")
    pairs = tuple((int(b), int(a)) for b, a in zip(before[1:], after[1:], strict=True))
    shape = lowering.shapes[node.output[0]]
    if tensor in lowering.images:
        pairs, shape = last(pairs), last(shape)
    lowering.moved(node, Pad(label(node), (tensor,), node.output[0], pairs, integer), shape)
    made = lowering.tensors[node.output[0]]
    low, high = min(made.low, integer), max(made.high, integer)
    lowering.tensors[node.output[0]] = IntegerTensor(made.shape, made.scale, made.zero_point, low, high)


@rule("Slice", "Gather")
def slice_(lowering: Lowering, node: NodeProto) -> None:
    """Constant ranges; Gather with one index is a slice of length one whose axis goes."""
    after = lowering.shapes[node.output[0]]
    tensor = lowering.stored(node)
    if tensor in lowering.images and len(after) != 3:
        tensor = lowering.turn(tensor)
    image = tensor in lowering.images
    stored = lowering.tensors[tensor].shape
    shape = (stored[2], stored[0], stored[1]) if image else stored
    ranges = tuple((0, length, 1) for length in shape)
    for axis, bounds in _ranges(lowering, node, shape):
        if axis == 0:
            raise lowering.refusal(node, "takes from the batch axis")
        ranges = (*ranges[: axis - 1], bounds, *ranges[axis:])
    if image:
        ranges, after = last(ranges), last(after)
    sliced = tuple(len(range(*bounds)) for bounds in ranges)
    name = node.output[0] if sliced == after else f"{node.output[0]}/sliced"
    lowering.moved(node, Slice(label(node), (tensor,), name, ranges), sliced)
    if sliced != after:
        lowering.moved(node, Reshape(f"{label(node)}/shape", (name,), node.output[0], after), after)


def _ranges(lowering: Lowering, node: NodeProto, shape: Shape) -> list[tuple[int, tuple[int, int, int]]]:
    """(axis, (start, stop, step)) of each axis that is cut."""
    rank = len(shape) + 1
    if node.op_type == "Gather":
        index = lowering.constant(node, 1)
        axis = attributes(node).get("axis", 0) % rank
        if index is None or index.values.size != 1 or axis == 0:
            raise lowering.refusal(node, "only one constant index along another axis than the batch")
        start = int(index.values.reshape(())) % shape[axis - 1]
        return [(axis, (start, start + 1, 1))]
    starts, ends, axes, steps = (lowering.constant(node, position) for position in range(1, 5))
    if starts is None or ends is None:
        raise lowering.refusal(node, "only constant ranges")
    count = starts.values.size
    listed = axes.values.reshape(-1).tolist() if axes is not None else list(range(count))
    strides = steps.values.reshape(-1).tolist() if steps is not None else [1] * count
    found = []
    for axis, start, end, step in zip(listed, starts.values.reshape(-1).tolist(), ends.values.reshape(-1).tolist(),
                                      strides, strict=True):  # fmt: skip
        if step < 0:
            raise lowering.refusal(node, "only forward steps")
        position = axis % rank
        length = 1 if position == 0 else shape[position - 1]
        found.append((position, slice(start, end, step).indices(length)))
    return [(axis, bounds) for axis, bounds in found if not (axis == 0 and bounds == (0, 1, 1))]


@rule("Concat")
def concatenation(lowering: Lowering, node: NodeProto) -> None:
    """Each tensor is brought onto the grid of the result."""
    axis = attributes(node)["axis"]
    shape = lowering.shapes[node.output[0]]
    rank = len(shape) + 1
    tensors, image = lowering.together(node)
    if axis % rank == 0:
        raise lowering.refusal(node, "along the batch axis")
    if image:
        shape, axis = last(shape), (3, 1, 2)[axis % rank - 1]

    def finish(target: Target, low: int, high: int) -> None:
        parts = []
        for position, tensor in enumerate(tensors):
            x = lowering.tensors[tensor]
            if (x.scale, x.zero_point) == (target.scale, target.zero_point) and low <= x.low and x.high <= high:
                parts.append(tensor)
                continue
            part = Target(f"{target.name}/{position}", target.scale, target.zero_point, low, high)
            lowering.add(*lowering.rescaled(f"{label(node)}/{position}", tensor, part))
            parts.append(part.name)
        operator = Concatenation(label(node), tuple(parts), target.name, axis % rank)
        lowering.add(operator, IntegerTensor(shape, target.scale, target.zero_point, low, high))

    lowering.known[node.output[0]] = Sum(shape, finish, label(node), image=image)
