"""Times and plus constants, a number for each channel or element: as a depthwise convolution of one point.

Its weight is at most 127 in units of the channel's factor, its bias 32 bits: the constants are met far below a step of
the input, and no target needs a kernel of its own.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np

from pocketpipe.integer.graph import Convolution, IntegerTensor, Reshape
from pocketpipe.integer.lowering import Lowering, label
from pocketpipe.integer.onnx_file import attributes
from pocketpipe.integer.real import Real, Sum, Target
from pocketpipe.integer.rules.products import back_to_row
from pocketpipe.integer.rules.registry import rule

if TYPE_CHECKING:
    from onnx import NodeProto

LARGEST_WEIGHT = 127
BIAS_BITS = 24
"""Of the largest offset in units of the sum: it fits 32 bits beside the products."""


@rule("BatchNormalization")
def batch_norm(lowering: Lowering, node: NodeProto) -> None:
    """One that was not folded into a layer. Channels are the axis after the batch."""
    given = [lowering.constant(node, position) for position in range(1, 5)]
    weight, bias, mean, variance = (None if each is None else each.values.astype(np.float64) for each in given)
    if weight is None or bias is None or mean is None or variance is None:
        raise lowering.refusal(node, "its weight, bias, mean and variance must be constants")
    if attributes(node).get("training_mode", 0):
        raise lowering.refusal(node, "takes statistics of the batch; export the network in evaluation mode")
    factors = weight / np.sqrt(variance + attributes(node).get("epsilon", 1e-5))
    value = lowering.known.get(node.input[0])
    if not isinstance(value, Real) or value.functions:
        raise lowering.refusal(node, f"its input {node.input[0]!r} is not quantized; fold it into the layer before it")
    spread = (-1, *[1] * (len(lowering.shapes[node.input[0]]) - 1))
    lowering.known[node.output[0]] = affine(
        lowering, node, value.tensor, factors.reshape(spread), (bias - mean * factors).reshape(spread)
    )


def affine(lowering: Lowering, node: NodeProto, tensor: str, factors: np.ndarray, offsets: np.ndarray) -> Sum:
    """`tensor * factors + offsets`, real numbers that are broadcast to the tensor's shape in the file (no batch)."""
    if _is_by_channel(lowering, node, tensor, factors, offsets):
        tensor = lowering.turn(tensor)
    image = tensor in lowering.images
    stored = lowering.tensors[tensor].shape
    spread = [_as_stored(lowering, node, tensor, each) for each in (factors, offsets)]
    flat = _is_by_row(*spread)
    factor, offset = _by_channel(*(each.T for each in spread)) if flat else _by_channel(*spread)
    box = (prod(stored) // len(factor), 1, len(factor))

    def finish(target: Target, low: int, high: int) -> None:
        x = lowering.tensors[tensor]
        added = _within_reach(offset, factor, x, target, low, high)
        scale = np.maximum(abs(factor) / LARGEST_WEIGHT, abs(added) / (x.scale * 2.0**BIAS_BITS))
        scale = np.where(scale > 0, scale, 1.0)
        if np.all(factor == factor[0]):
            scale = scale.max(keepdims=True)
        weight = np.floor(factor / scale + 0.5)
        bias = np.floor(added / (x.scale * scale) + 0.5) - x.zero_point * weight
        name = target.name if stored == box else f"{target.name}/box"
        source = lowering.turn(lowering.reshaped(tensor, (len(factor), 1, box[0]))) if flat else tensor
        operator = Convolution(
            label(node), (lowering.reshaped(source, box),), name,
            weight.astype(np.int8).reshape(-1, 1, 1, 1), bias.astype(np.int32), (1, 1), (0, 0, 0, 0), (1, 1),
            len(factor), x.zero_point, lowering.factor(node, target, x.scale, scale, limits=(low, high)),
        )  # fmt: skip
        lowering.add(operator, target.tensor(box, low, high))
        if flat:
            back_to_row(lowering, node, lowering.reshaped(name, (1, box[0], len(factor))), target.name)
        elif stored != box:
            lowering.ended(Reshape(f"{label(node)}/shape", (name,), target.name, stored))

    def with_affine(more: np.ndarray, added: np.ndarray) -> Sum:
        return affine(lowering, node, tensor, factors * more, offsets * more + added)

    return Sum(stored, finish, label(node), image=image, with_affine=with_affine)


def _within_reach(
    offset: np.ndarray, factor: np.ndarray, x: IntegerTensor, target: Target, low: int, high: int
) -> np.ndarray:
    """Offsets cut to where the sum saturates whatever `x` is: a mask of -1e9 is not to coarsen what it is added to."""
    reach = abs(factor) * x.scale * 256 + target.scale
    least, largest = ((end - target.zero_point) * target.scale for end in (low, high))
    cut: np.ndarray = np.clip(offset, least - reach, largest + reach)
    return cut


def _is_by_channel(lowering: Lowering, node: NodeProto, tensor: str, *constants: np.ndarray) -> bool:
    """Whether these are one number a channel, of an image in the file's order: turned, it has no more channels."""
    if tensor in lowering.images or len(lowering.tensors[tensor].shape) != 3:
        return False
    spread = (_as_stored(lowering, node, tensor, constant) for constant in constants)
    return all(bool(np.all(each == each[:, :1, :1])) for each in spread)


def _is_by_row(*constants: np.ndarray) -> bool:
    """Whether these, as the tensor is stored, are one number for each row of a matrix, of which some differ: for each
    channel of a sequence, which lies last once that is turned.
    """
    if constants[0].ndim != 2:
        return False
    return all(bool(np.all(each == each[:, :1])) for each in constants) and not all(
        bool(np.all(each == each[:1])) for each in constants
    )


def _as_stored(lowering: Lowering, node: NodeProto, tensor: str, constant: np.ndarray) -> np.ndarray:
    """The constant at every element of the tensor, in the order in which that is stored."""
    shape = lowering.tensors[tensor].shape
    in_file = (shape[2], *shape[:2]) if tensor in lowering.images else shape
    try:
        spread = np.broadcast_to(constant, in_file)
    except ValueError:
        raise lowering.refusal(node, f"a constant {constant.shape} does not fit a tensor {in_file}") from None
    return np.moveaxis(spread, 0, -1) if tensor in lowering.images else spread


def _by_channel(*constants: np.ndarray) -> tuple[np.ndarray, ...]:
    """Each by the last axis, if all are the same along the others; else each element by element."""
    rows = [constant.reshape(-1, constant.shape[-1]) for constant in constants]
    if all(np.all(row == row[0]) for row in rows):
        return tuple(row[0] for row in rows)
    return tuple(row.reshape(-1) for row in rows)
