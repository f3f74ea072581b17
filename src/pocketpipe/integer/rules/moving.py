"""What only moves numbers: reshapes, slices, concatenations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from pocketpipe.integer.graph import Concatenation, Pad, Reshape, Shape, Slice
from pocketpipe.integer.lowering import Lowering, label, last
from pocketpipe.integer.onnx_file import attributes
from pocketpipe.integer.real import Constant, Real, Sum, Target
from pocketpipe.integer.rules.affine import affine
from pocketpipe.integer.rules.constants import move_constant
from pocketpipe.integer.rules.registry import rule

if TYPE_CHECKING:
    from onnx import NodeProto

Range = tuple[int, int, int]
"""Start, stop, step."""
STORED_AXES = (0, 3, 1, 2)
"""Where each axis of an image in the file lies as it is stored."""
FLOATING = (1, 10, 11, 16)
"""Of ONNX's TensorProto: float32, float16, double, bfloat16."""


@rule("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(lowering: Lowering, node: NodeProto) -> None:
    """The same numbers in another shape. A sum that waits is finished first, at its own shape."""
    if move_constant(lowering, node):
        return
    shape = lowering.shapes[node.output[0]]
    value = lowering.known.get(node.input[0])
    if isinstance(value, Sum):
        _refuse_more_or_fewer(lowering, node, prod(value.shape), shape)
        inner = value

        def finish(target: Target, low: int, high: int) -> None:
            name = f"{target.name}/before"
            inner.finish(replace(target, name=name), low, high)
            if inner.image:
                lowering.images.add(name)
                name = lowering.turn(name)
            lowering.ended(Reshape(label(node), (name,), target.name, shape))

        lowering.known[node.output[0]] = Sum(shape, finish, label(node), low=inner.low, high=inner.high)
        return
    source = lowering.plain(node)
    _refuse_more_or_fewer(lowering, node, lowering.tensors[source].elements, shape)
    lowering.moved(Reshape(label(node), (source,), node.output[0], shape), shape)


def _refuse_more_or_fewer(lowering: Lowering, node: NodeProto, elements: int, shape: Shape) -> None:
    """Shapes are of one example, which has more or fewer elements after an axis went into the batch or out of it."""
    if elements != prod(shape):
        raise lowering.refusal(
            node,
            "moves an axis into the batch or out of it; keep the batch first and by itself (ONNX Runtime's "
            "quant_pre_process does it to linear layers on sequences: skip_optimization=True)",
        )


@rule("Identity", "Dropout", "Cast")
def identity(lowering: Lowering, node: NodeProto) -> None:
    """Nothing happens, but to the number format of a constant."""
    from onnx import helper

    source = node.input[0]
    constant = lowering.constant(node, 0)
    if constant is not None and node.op_type == "Cast" and constant.quantized is None:
        kind = helper.tensor_dtype_to_np_dtype(attributes(node)["to"])
        lowering.known[node.output[0]] = Constant(constant.values.astype(kind))
        return
    if node.op_type == "Cast" and source in lowering.known and attributes(node)["to"] not in FLOATING:
        raise lowering.refusal(node, "cuts real numbers to whole ones; quantize them instead")
    if source in lowering.known:
        lowering.known[node.output[0]] = lowering.known[source]
    if source in lowering.quantized:
        lowering.alias(node)


@rule("Transpose")
def transpose(lowering: Lowering, node: NodeProto) -> None:
    """The batch must stay first."""
    if move_constant(lowering, node):
        return
    order = attributes(node).get("perm")
    if order is None or order[0] != 0:
        raise lowering.refusal(node, "moves the batch axis")
    tensor, name = lowering.stored(node), node.output[0]
    image, new = tensor in lowering.images, tuple(axis - 1 for axis in order[1:])
    if not image and new == (2, 0, 1):  # the last axis becomes the channels: they lie last already
        lowering.transposed(label(node), tensor, name, (0, 1, 2))
        lowering.images.add(name)
    else:
        stored = (2, 0, 1) if image else tuple(range(len(new)))
        lowering.transposed(label(node), tensor, name, tuple(stored[axis] for axis in new))
    lowering.known[name] = Real(name)


@rule("Slice")
def slice_(lowering: Lowering, node: NodeProto) -> None:
    """Constant ranges."""
    if move_constant(lowering, node):
        return
    _cut(lowering, node, node.output[0], lambda shape: _ranges(lowering, node, shape))


@rule("Gather")
def gather(lowering: Lowering, node: NodeProto) -> None:
    """Constant indices: slices side by side, of length one where nothing else fits."""
    if move_constant(lowering, node):
        return
    index, rank = lowering.constant(node, 1), len(lowering.shapes[node.input[0]]) + 1
    axis = attributes(node).get("axis", 0) % rank
    if index is None or index.values.size == 0 or axis == 0:
        raise lowering.refusal(node, "only constant indices along another axis than the batch")
    length = lowering.shapes[node.input[0]][axis - 1]
    runs = _runs([int(each) % length for each in index.values.reshape(-1)])
    made = node.output[0]
    if len(runs) == 1:
        _cut(lowering, node, made, partial(_one_range, axis, runs[0]))
        return
    flat = index.values.ndim == 1
    image = flat and lowering.stored(node) in lowering.images
    tensor, axis = (lowering.stored(node), STORED_AXES[axis]) if image else (lowering.plain(node), axis)
    shape = lowering.tensors[tensor].shape
    parts = []
    for number, bounds in enumerate(runs):
        whole = tuple((0, each, 1) for each in shape)
        ranges = (*whole[: axis - 1], bounds, *whole[axis:])
        operator = Slice(f"{label(node)}/{number}", (tensor,), f"{made}/{number}", ranges)
        lowering.moved(operator, tuple(len(range(*each)) for each in ranges))
        parts.append(operator.output)
    after, name = lowering.shapes[made], made if flat else f"{made}/joined"
    lowering.known[name] = side_by_side(lowering, label(node), name, parts, axis)
    if not flat:
        lowering.moved(Reshape(f"{label(node)}/shape", (name,), made, after), after)


def _runs(indices: Sequence[int]) -> list[Range]:
    """Ranges that give these indices one after the other.

    >>> _runs([3, 4, 0, 1, 2]), _runs([4, 2, 0]), _runs([0, 0])
    ([(3, 5, 1), (0, 3, 1)], [(4, -1, -2)], [(0, 1, 1), (0, 1, 1)])
    """
    found: list[Range] = []
    first = 0
    while first < len(indices):
        last, step = first, 1
        if first + 1 < len(indices) and indices[first + 1] != indices[first]:
            step = indices[first + 1] - indices[first]
        while last + 1 < len(indices) and indices[last + 1] - indices[last] == step:
            last += 1
        found.append((indices[first], indices[last] + (1 if step > 0 else -1), step))
        first = last + 1
    return found


def side_by_side(lowering: Lowering, name: str, made: str, tensors: Sequence[str], axis: int) -> Real:
    """`made` of tensors on one grid, all stored in one order; `axis` is that of what is stored, the batch 0."""
    parts = [lowering.tensors[tensor] for tensor in tensors]
    first = parts[0].shape
    shape = (*first[: axis - 1], sum(part.shape[axis - 1] for part in parts), *first[axis:])
    low, high = min(part.low for part in parts), max(part.high for part in parts)
    lowering.add(Concatenation(name, tuple(tensors), made, axis), replace(parts[0], shape=shape, low=low, high=high))
    if all(tensor in lowering.images for tensor in tensors):
        lowering.images.add(made)
    return Real(made)


@rule("Split")
def split(lowering: Lowering, node: NodeProto) -> None:
    """A slice for each part."""
    if move_constant(lowering, node):
        return
    rank = len(lowering.shapes[node.input[0]]) + 1
    axis = attributes(node).get("axis", 0) % rank
    start = 0
    for name in node.output:
        length = lowering.shapes[name][axis - 1]
        _cut(lowering, node, name, partial(_one_range, axis, (start, start + length, 1)))
        start += length


def _one_range(axis: int, bounds: Range, shape: Shape) -> list[tuple[int, Range]]:
    return [(axis, bounds)]


def _cut(lowering: Lowering, node: NodeProto, made: str, ranges_of: Callable[[Shape], list[tuple[int, Range]]]) -> None:
    """Takes ranges of the tensor that goes into the node; `ranges_of` its shape in the file."""
    after = lowering.shapes[made]
    tensor = lowering.stored(node)
    if tensor in lowering.images and len(after) != 3:
        tensor = lowering.turn(tensor)
    image = tensor in lowering.images
    stored = lowering.tensors[tensor].shape
    shape = (stored[2], stored[0], stored[1]) if image else stored
    ranges = tuple((0, length, 1) for length in shape)
    for axis, bounds in ranges_of(shape):
        if axis == 0:
            raise lowering.refusal(node, "takes from the batch axis")
        ranges = (*ranges[: axis - 1], bounds, *ranges[axis:])
    if image:
        ranges, after = last(ranges), last(after)
    sliced = tuple(len(range(*bounds)) for bounds in ranges)
    name = made if sliced == after else f"{made}/sliced"
    lowering.moved(Slice(label(node), (tensor,), name, ranges), sliced)
    if sliced != after:
        lowering.moved(Reshape(f"{label(node)}/shape", (name,), made, after), after)


def _ranges(lowering: Lowering, node: NodeProto, shape: Shape) -> list[tuple[int, Range]]:
    """(axis, (start, stop, step)) of each axis that is cut."""
    rank = len(shape) + 1
    starts, ends, axes, steps = (lowering.constant(node, position) for position in range(1, 5))
    if starts is None or ends is None:
        raise lowering.refusal(node, "only constant ranges")
    count = starts.values.size
    listed = axes.values.reshape(-1).tolist() if axes is not None else list(range(count))
    strides = steps.values.reshape(-1).tolist() if steps is not None else [1] * count
    found = []
    for axis, start, end, step in zip(listed, starts.values.reshape(-1).tolist(), ends.values.reshape(-1).tolist(),
                                      strides, strict=True):  # fmt: skip
        position = axis % rank
        length = 1 if position == 0 else shape[position - 1]
        found.append((position, slice(start, end, step).indices(length)))
    return [(axis, bounds) for axis, bounds in found if not (axis == 0 and bounds == (0, 1, 1))]


@rule("Concat")
def concatenation(lowering: Lowering, node: NodeProto) -> None:
    """Each tensor is brought onto the grid of the result, if they are not on one already."""
    axis = attributes(node)["axis"]
    constants = [lowering.constant(node, position) for position in range(len(node.input))]
    if all(constants):
        lowering.known[node.output[0]] = _joined(lowering, node, constants, axis)
        return
    shape = lowering.shapes[node.output[0]]
    rank = len(shape) + 1
    if axis % rank == 0:
        raise lowering.refusal(node, "along the batch axis")
    if any(constants):
        lowering.known[node.output[0]] = _beside_constants(lowering, node, axis % rank - 1)
        return
    tensors, image = lowering.together(node)
    if image:
        shape, axis = last(shape), STORED_AXES[axis % rank]
    if len({(lowering.tensors[tensor].scale, lowering.tensors[tensor].zero_point) for tensor in tensors}) == 1:
        made = node.output[0]
        lowering.known[made] = side_by_side(lowering, label(node), made, tensors, axis % rank)
        return

    def finish(target: Target, low: int, high: int) -> None:
        grid = replace(target, low=low, high=high)
        parts = [on_the_grid_of(lowering, node, str(i), tensor, grid) for i, tensor in enumerate(tensors)]
        operator = Concatenation(label(node), tuple(parts), target.name, axis % rank)
        lowering.add(operator, target.tensor(shape, low, high))

    lowering.known[node.output[0]] = Sum(shape, finish, label(node), image=image)


def on_the_grid_of(lowering: Lowering, node: NodeProto, part: str, tensor: str, target: Target) -> str:
    """The tensor on the grid and within the range of `target`; `part`: what it is called, if it is another one."""
    x = lowering.tensors[tensor]
    if (x.scale, x.zero_point) == (target.scale, target.zero_point) and target.low <= x.low and x.high <= target.high:
        return tensor
    made = replace(target, name=f"{target.name}/{part}")
    lowering.add(*lowering.rescaled(node, f"{label(node)}/{part}", tensor, made))
    if tensor in lowering.images:
        lowering.images.add(made.name)
    return made.name


def _joined(lowering: Lowering, node: NodeProto, constants: Sequence[Constant | None], axis: int) -> Constant:
    """Constants side by side: quantized where all are, with scales that lie along the same axis or are one."""
    parts = [constant for constant in constants if constant is not None]
    values = np.concatenate([part.values for part in parts], axis)
    integers = [part.quantized for part in parts if part.quantized is not None]
    scales = [part.scale for part in parts if part.scale is not None]
    if not integers:
        return Constant(values)
    if len(integers) < len(parts) or len(scales) < len(parts):
        raise lowering.refusal(node, "joins quantized constants with others; quantize all of them")
    quantized, along = np.concatenate(integers, axis), axis % values.ndim
    if all(scale.size == 1 and scale == scales[0] for scale in scales):
        return Constant(values, quantized, scales[0])
    if all(scale.size == 1 or part.axis == along for scale, part in zip(scales, parts, strict=True)):
        spread = [np.broadcast_to(s, part.values.shape[along]) for s, part in zip(scales, parts, strict=True)]
        return Constant(values, quantized, np.concatenate(spread), along)
    raise lowering.refusal(node, "what it makes has its scales along no one axis; quantize its parts per tensor")


def _beside_constants(lowering: Lowering, node: NodeProto, axis: int) -> Sum:
    """One tensor between constants. These are made of as many of its rows, times 0; where it has too few, or more is to
    be added to all of it, it is padded and the constants are added to what is around it.
    """
    values = [lowering.constant(node, position) for position in range(len(node.input))]
    tensors = [position for position, value in enumerate(values) if value is None]
    if len(tensors) != 1:
        raise lowering.refusal(node, "constants beside several tensors")
    (position,) = tensors
    tensor = lowering.plain(node, position)
    x = lowering.tensors[tensor]

    def joined(constants: list[Constant | None]) -> np.ndarray | None:
        parts = [constant.values.astype(np.float64)[0] for constant in constants if constant is not None]
        return np.concatenate(parts, axis) if parts else None

    before, after = joined(values[:position]), joined(values[position + 1 :])
    lengths = [0 if part is None else part.shape[axis] for part in (before, after)]
    amounts = tuple((lengths[0], lengths[1]) if other == axis else (0, 0) for other in range(len(x.shape)))
    shape = lowering.shapes[node.output[0]]
    name = f"{node.output[0]}/padded"
    lowering.add(Pad(f"{label(node)}/pad", (tensor,), name, amounts, x.zero_point), replace(x, shape=shape))
    around = [part for part in (before, np.zeros(x.shape), after) if part is not None]
    padded = affine(lowering, node, name, np.ones(()), np.concatenate(around, axis))
    if max(lengths) > x.shape[axis]:
        return padded

    def finish(target: Target, low: int, high: int) -> None:
        grid = replace(target, low=low, high=high)

        def made(side: str, constant: np.ndarray) -> str:
            ranges = tuple((0, length, 1) for length in constant.shape)
            part = f"{target.name}/{side}"
            lowering.moved(Slice(f"{label(node)}/{side}", (tensor,), f"{part}/rows", ranges), constant.shape)
            affine(lowering, node, f"{part}/rows", np.zeros(()), constant).finish(replace(grid, name=part), low, high)
            return part

        own = on_the_grid_of(lowering, node, "own", tensor, grid)
        parts = (*([] if before is None else [made("before", before)]), own,
                 *([] if after is None else [made("after", after)]))  # fmt: skip
        lowering.add(Concatenation(label(node), parts, target.name, axis + 1), target.tensor(shape, low, high))

    return Sum(shape, finish, label(node), with_affine=padded.with_affine)


@rule("Tile")
def tile(lowering: Lowering, node: NodeProto) -> None:
    """The tensor several times, side by side, along each axis in turn."""
    if move_constant(lowering, node):
        return
    repeats = lowering.constant(node, 1)
    if repeats is None or repeats.values[0] != 1:
        raise lowering.refusal(node, "only constant repeats, and none of the batch")
    tensor, made = lowering.stored(node), node.output[0]
    image = tensor in lowering.images
    for axis, count in enumerate(repeats.values.tolist()):
        if count > 1:
            name, along = f"{made}/{axis}", STORED_AXES[axis] if image else axis
            side_by_side(lowering, f"{label(node)}/{axis}", name, [tensor] * count, along)
            tensor = name
    lowering.known[made] = Real(tensor)


@rule("Expand")
def expand(lowering: Lowering, node: NodeProto) -> None:
    """Of a constant, or to the shape that there is; sums and elementwise products repeat what they read."""
    if move_constant(lowering, node):
        return
    shape = lowering.shapes[node.output[0]]
    if node.input[0] not in lowering.known:
        raise lowering.refusal(node, f"its input {node.input[0]!r} is not quantized")
    if lowering.shapes[node.input[0]] == shape:
        lowering.known[node.output[0]] = lowering.known[node.input[0]]
    else:
        raise lowering.refusal(node, "repeats a tensor; let the sum or elementwise product behind it do so")
