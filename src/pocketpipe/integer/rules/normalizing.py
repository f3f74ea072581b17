"""Along the last axis: LayerNorm by an integer square root, softmax by a table of exponentials and one division."""

from __future__ import annotations

from math import frexp, prod
from typing import TYPE_CHECKING

import numpy as np

from pocketpipe.integer.fixed_point import FRACTION_BITS
from pocketpipe.integer.graph import LayerNorm, Softmax
from pocketpipe.integer.lowering import Lowering, label
from pocketpipe.integer.onnx_file import attributes
from pocketpipe.integer.real import Constant, Sum, Target
from pocketpipe.integer.rules.registry import rule

if TYPE_CHECKING:
    from onnx import NodeProto

LONGEST = 2**15
"""Of an axis, so that every number in between keeps to its bits (`fixed_point.over_root`, `graph.Softmax`)."""
LARGEST_SHIFT = 46
"""A bias of 32 bits with 16 bits of fraction, moved up to it, fits 62 bits."""
MULTIPLIER_BITS = 30
EXPONENTIAL_BITS = 23
SHARE_BITS = 30
ONE_AXIS = 13
"""The opset since which softmax is along one axis."""


@rule("LayerNormalization")
def layer_norm(lowering: Lowering, node: NodeProto) -> None:
    """The input's scale cancels; its zero point, too."""
    tensor = lowering.plain(node)
    width = _refuse_other_axes(lowering, node, tensor, attributes(node).get("axis", -1))
    weight, bias = lowering.constant(node, 1), lowering.constant(node, 2)
    if weight is None or (bias is None and len(node.input) > 2):
        raise lowering.refusal(node, "its weight and bias must be constants")
    shape = lowering.shapes[node.output[0]]
    factors, offsets = (_of_each(lowering, node, each, width) for each in (weight, bias))
    epsilon = attributes(node).get("epsilon", 1e-5) * (width / lowering.tensors[tensor].scale) ** 2

    def finish(target: Target, low: int, high: int) -> None:
        if max(abs(factors).max(), abs(offsets).max()) / target.scale >= 2**15:
            raise lowering.refusal(node, "its weight or bias is 2^15 steps of its result, or more; is it calibrated?")
        largest = abs(factors).max() / target.scale
        shift = FRACTION_BITS + min(MULTIPLIER_BITS - frexp(largest)[1], LARGEST_SHIFT - FRACTION_BITS)
        # A result in steps is z * factor / scale, and z is in units of 2^-16.
        multiplier = np.floor(factors / target.scale * 2.0 ** (shift - FRACTION_BITS) + 0.5).astype(np.int32)
        added = np.floor(offsets / target.scale * 2.0**FRACTION_BITS + 0.5)
        added = added.clip(-(2**31), 2**31 - 1).astype(np.int32)  # just below the limit it rounds up to 2^31
        operator = LayerNorm(label(node), (tensor,), target.name, max(1, round(min(epsilon, 2.0**59))), multiplier,
                             added, shift, target.zero_point, low, high)  # fmt: skip
        lowering.add(operator, target.tensor(shape, low, high))

    lowering.known[node.output[0]] = Sum(shape, finish, label(node))


def _of_each(lowering: Lowering, node: NodeProto, given: Constant | None, width: int) -> np.ndarray:
    """(width,) Numbers of each place of the last axis; 0 where nothing is given."""
    values = np.zeros(1) if given is None else given.values.astype(np.float64)
    if values.size not in (1, width) or values.size != (values.shape[-1] if values.ndim else 1):
        raise lowering.refusal(node, f"its weight or bias of shape {values.shape} is not along the last axis alone")
    return np.broadcast_to(values.reshape(-1), (width,))


@rule("Softmax")
def softmax(lowering: Lowering, node: NodeProto) -> None:
    """Less the largest, so that no exponential is above 1. Along the channels of images it is, as they are stored,
    along the last axis too."""
    image = _is_along_channels(lowering, node)
    tensor = lowering.image(node) if image else lowering.plain(node)
    _refuse_other_axes(lowering, node, tensor, -1 if image else _softmax_axis(lowering, node))
    shape = lowering.tensors[tensor].shape
    steps = np.arange(256) * lowering.tensors[tensor].scale
    exponentials = np.floor(np.exp(-steps) * 2**EXPONENTIAL_BITS + 0.5).astype(np.int32)

    def finish(target: Target, low: int, high: int) -> None:
        factor = lowering.factor(node, target, 2.0**-SHARE_BITS, limits=(low, high))
        operator = Softmax(label(node), (tensor,), target.name, exponentials, factor)
        lowering.add(operator, target.tensor(shape, low, high))

    lowering.known[node.output[0]] = Sum(shape, finish, label(node), image=image)


def _is_along_channels(lowering: Lowering, node: NodeProto) -> bool:
    """Before opset 13 a row from the second axis on is that if all others are of length 1."""
    shape, default = lowering.shapes[node.input[0]], -1 if lowering.opset >= ONE_AXIS else 1
    is_second = attributes(node).get("axis", default) in (1, -3)
    return len(shape) == 3 and is_second and (lowering.opset >= ONE_AXIS or prod(shape[1:]) == 1)


def _softmax_axis(lowering: Lowering, node: NodeProto) -> int:
    """The axis along which shares are taken. Before opset 13 a row is all axes from `axis` on, and that is the second
    one where it is not said: one axis alone if the others are of length 1.
    """
    given = attributes(node)
    if lowering.opset >= ONE_AXIS:
        return int(given.get("axis", -1))
    shape = lowering.shapes[node.input[0]]
    axis = int(given.get("axis", 1)) % (len(shape) + 1)
    return -1 if axis > 0 and prod(shape[axis - 1 : -1]) == 1 else axis


def _refuse_other_axes(lowering: Lowering, node: NodeProto, tensor: str, axis: int) -> int:
    """The length of the last axis of what goes in, which `axis` must be. Raises UserError for another one."""
    rank = len(lowering.tensors[tensor].shape) + 1
    width = lowering.tensors[tensor].shape[-1]
    if axis % rank != rank - 1:
        raise lowering.refusal(node, "only along the last axis")
    if width > LONGEST:
        raise lowering.refusal(node, f"an axis of {width:,} is too long for 64 bits; {LONGEST:,} are possible")
    return width
