"""Sums of products: convolutions, layers, products of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from pocketpipe.integer.advice import SYMMETRIC
from pocketpipe.integer.graph import Convolution, IntegerTensor, Linear, MatMul, Pad, Reshape
from pocketpipe.integer.lowering import Lowering, label
from pocketpipe.integer.onnx_file import attributes
from pocketpipe.integer.real import Constant, Sum, Target
from pocketpipe.integer.rules.reaching import reach
from pocketpipe.integer.rules.registry import rule

if TYPE_CHECKING:
    from onnx import NodeProto


SCALE_OF_ZEROS = 2.0**-12
"""Of weights that are all 0. A bias is counted in units of it times the input's scale: fine enough for results whose
steps are not hundreds of times finer than the input's."""


@rule("Conv")
def convolution(lowering: Lowering, node: NodeProto) -> None:
    """One- or two-dimensional; one-dimensional as of height 1."""
    weight, bias = weight_of(lowering, node, 1, 0), constant_bias(lowering, node)
    given = attributes(node)
    if weight.values.ndim not in (3, 4):
        raise lowering.refusal(node, "only one and two dimensions")
    flat = weight.values.ndim == 3
    padded = lowering.plain(node) if flat else lowering.image(node)
    quantized = int8_of(lowering, node, weight)
    kernel = np.ascontiguousarray(np.moveaxis(quantized[:, :, None] if flat else quantized, 1, -1))
    strides, dilations = (pair(given.get(name, [1, 1]), flat) for name in ("strides", "dilations"))
    channels, *rows = lowering.shapes[node.output[0]]
    shape = (1, rows[0], channels) if flat else (rows[0], rows[1], channels)
    spans = [(size - 1) * dilation + 1 for size, dilation in zip(kernel.shape[1:3], dilations, strict=True)]
    lengths = lowering.tensors[padded].shape[1:] if flat else lowering.tensors[padded].shape[:2]
    along = (shape[:2], spans, strides)
    before, after = reach(lowering, node, lengths, *(each[1:] if flat else each for each in along))
    inner, before, after = _without_pad(lowering, padded, before, after, spans[1:] if flat else spans)
    source = row(lowering, node, inner) if flat else inner
    padding = (0, before[0], 0, after[0]) if flat else (before[0], before[1], after[0], after[1])

    def finish(target: Target, low: int, high: int) -> None:
        x = lowering.tensors[source]
        name = f"{target.name}/image" if flat else target.name
        operator = Convolution(
            label(node), (source,), name, kernel, bias_of(lowering, node, quantized, weight, bias, x),
            strides, padding, dilations, int(given.get("group", 1)), x.zero_point,
            lowering.factor(node, target, x.scale, scale_of(weight), limits=(low, high)),
        )  # fmt: skip
        lowering.add(operator, target.tensor(shape, low, high))
        if flat:
            back_to_row(lowering, node, name, target.name)

    stored = (channels, rows[0]) if flat else shape
    lowering.known[node.output[0]] = Sum(stored, finish, label(node), image=not flat)


def _without_pad(
    lowering: Lowering, tensor: str, before: list[int], after: list[int], spans: Sequence[int]
) -> tuple[str, list[int], list[int]]:
    """(what is read, its pads before and after) of windows over `tensor`: if a Pad makes that with the zero point, as
    windows do themselves, what goes into the Pad. No window lies beside its image as a whole.
    """
    pad = next((each for each in lowering.operators if each.output == tensor), None)
    if not isinstance(pad, Pad) or pad.value != lowering.tensors[tensor].zero_point:
        return tensor, before, after
    image = tensor in lowering.images
    channels, places = (pad.amounts[-1], pad.amounts[:-1]) if image else (pad.amounts[0], pad.amounts[1:])
    more = [first + amounts[0] for first, amounts in zip(before, places, strict=True)]
    most = [last + amounts[1] for last, amounts in zip(after, places, strict=True)]
    reaches = any(length >= span for length, span in zip([*more, *most], [*spans, *spans], strict=True))
    return (tensor, before, after) if any(channels) or reaches else (pad.inputs[0], more, most)


def pair(values: list[int], flat: bool) -> tuple[int, int]:
    """What a node gives along height and width."""
    return (1, int(values[0])) if flat else (int(values[0]), int(values[1]))


def row(lowering: Lowering, node: NodeProto, tensor: str) -> str:
    """A sequence (channels, width) as an image of height 1, channels last."""
    channels, width = lowering.tensors[tensor].shape
    name = f"{node.output[0]}/row"
    made = replace(lowering.tensors[tensor], shape=(channels, 1, width))
    lowering.add(Reshape(name, (tensor,), name, made.shape), made)
    return lowering.turn(name)


def back_to_row(lowering: Lowering, node: NodeProto, image: str, name: str) -> None:
    """`row` undone: an image of height 1, channels last, becomes the sequence (channels, width) called `name`."""
    _, width, channels = lowering.tensors[image].shape
    lowering.images.add(image)
    lowering.ended(Reshape(f"{label(node)}/row", (lowering.turn(image),), name, (channels, width)))


@rule("Gemm", "MatMul")
def linear(lowering: Lowering, node: NodeProto) -> None:
    """With a constant matrix a layer; between two tensors a product of them."""
    given = attributes(node)
    if any(given.get(name, default) != default for name, default in (("alpha", 1.0), ("beta", 1.0), ("transA", 0))):
        raise lowering.refusal(node, "only alpha = beta = 1 and transA = 0")
    if lowering.constant(node, 0) is not None:
        _constant_on_the_left(lowering, node)
        return
    if lowering.constant(node, 1) is None:
        _product_of_tensors(lowering, node)
        return
    outputs_first = bool(given.get("transB", 0))
    tensor, weight = lowering.plain(node), weight_of(lowering, node, 1, 0 if outputs_first else 1)
    quantized = int8_of(lowering, node, weight)
    matrix = quantized if outputs_first else np.ascontiguousarray(quantized.T)
    if matrix.ndim != 2:
        raise lowering.refusal(node, "its constant must be a matrix")
    shape = lowering.shapes[node.output[0]]

    def waiting(bias: Constant | None) -> Sum:
        def finish(target: Target, low: int, high: int) -> None:
            x = lowering.tensors[tensor]
            operator = Linear(
                label(node), (tensor,), target.name, matrix, bias_of(lowering, node, matrix, weight, bias, x),
                lowering.factor(node, target, x.scale, scale_of(weight), limits=(low, high)),
            )  # fmt: skip
            lowering.add(operator, target.tensor(shape, low, high))

        def with_affine(factors: np.ndarray, offsets: np.ndarray) -> Sum | None:
            a_bias = offsets.size == 1 or offsets.size == offsets.shape[-1] == len(matrix)
            return waiting(Constant(offsets.reshape(-1))) if a_bias and np.all(factors == 1) else None

        return Sum(shape, finish, label(node), with_affine=None if bias else with_affine)

    lowering.known[node.output[0]] = waiting(constant_bias(lowering, node))


def constant_bias(lowering: Lowering, node: NodeProto) -> Constant | None:
    """What the node adds, if anything."""
    bias = lowering.constant(node, 2)
    if bias is None and len(node.input) > 2 and node.input[2]:
        raise lowering.refusal(node, "what it adds must be a constant; add another tensor behind it")
    return bias


def _constant_on_the_left(lowering: Lowering, node: NodeProto) -> None:
    """`W @ x` is what the layer `W` makes along the last axis of x with its last two axes exchanged, exchanged back."""
    tensor, weight = lowering.plain(node, 1), weight_of(lowering, node, 0, 0)
    matrix, shape, before = int8_of(lowering, node, weight), lowering.shapes[node.output[0]], lowering.tensors[tensor]
    if node.op_type != "MatMul" or matrix.ndim != 2 or len(before.shape) < 2:
        why = "on its left only a constant matrix, of MatMul, with a tensor of rows and columns"
        raise lowering.refusal(node, why)
    axes = len(before.shape)
    order = (*range(axes - 2), axes - 1, axes - 2)
    turned = f"{node.output[0]}/turned"
    lowering.transposed(turned, tensor, turned, order)

    def finish(target: Target, low: int, high: int) -> None:
        product = f"{target.name}/turned"
        operator = Linear(
            label(node), (turned,), product, matrix, bias_of(lowering, node, matrix, weight, None, before),
            lowering.factor(node, target, before.scale, scale_of(weight), limits=(low, high)),
        )  # fmt: skip
        lowering.add(operator, target.tensor((*shape[:-2], shape[-1], shape[-2]), low, high))
        lowering.transposed(f"{label(node)}/back", product, target.name, order)

    lowering.known[node.output[0]] = Sum(shape, finish, label(node))


def _product_of_tensors(lowering: Lowering, node: NodeProto) -> None:
    left, right = lowering.plain(node, 0), lowering.plain(node, 1)
    shapes = [lowering.tensors[name].shape for name in (left, right)]
    rank = max(map(len, shapes))
    if node.op_type != "MatMul" or min(map(len, shapes)) < 2:
        raise lowering.refusal(node, "of two tensors only MatMul, each with rows and columns beside the batch")
    left, right = (
        lowering.reshaped(name, (1,) * (rank - len(shape)) + shape)  # the last axes meet, as ONNX has it
        for name, shape in zip((left, right), shapes, strict=True)
    )
    shape = lowering.shapes[node.output[0]]

    def finish(target: Target, low: int, high: int) -> None:
        one, other = lowering.tensors[left], lowering.tensors[right]
        factor = lowering.factor(node, target, one.scale, other.scale, limits=(low, high))
        zero_points = (one.zero_point, other.zero_point)
        operator = MatMul(label(node), (left, right), target.name, zero_points, factor)
        lowering.add(operator, target.tensor(shape, low, high))

    lowering.known[node.output[0]] = Sum(shape, finish, label(node))


def weight_of(lowering: Lowering, node: NodeProto, position: int, outputs: int) -> Constant:
    """The weight at an input; along its axis `outputs` lie what the layer makes."""
    weight = lowering.constant(node, position)
    if weight is None or weight.quantized is None or weight.scale is None:
        raise lowering.refusal(node, f"its weight {node.input[position]!r} is not quantized")
    if weight.scale.size > 1 and weight.axis != outputs:
        raise lowering.refusal(node, f"its weight has scales along axis {weight.axis}, not along its outputs")
    return weight if weight.scale.all() else _without_scales_of_zero(weight, weight.quantized, weight.scale)


def _without_scales_of_zero(weight: Constant, integers: np.ndarray, scale: np.ndarray) -> Constant:
    """Zeros, on a scale of their own, in the channels whose scale is 0: their bias is all that they make."""
    spread = [1] * integers.ndim
    spread[weight.axis] = -1
    kept = np.where(scale.reshape(spread) == 0, 0, integers)
    return Constant(weight.values, kept, np.where(scale == 0, SCALE_OF_ZEROS, scale), weight.axis)


def scale_of(weight: Constant) -> np.ndarray:
    """(1,) or (channels,)."""
    assert weight.scale is not None
    return weight.scale


def int8_of(lowering: Lowering, node: NodeProto, weight: Constant) -> np.ndarray:
    """The weight's integers."""
    assert weight.quantized is not None
    least, most = weight.quantized.min(initial=0), weight.quantized.max(initial=0)
    if least < -128 or most > 127:
        raise lowering.refusal(node, f"its weight does not fit int8 ({least}..{most}); {SYMMETRIC}")
    return weight.quantized.astype(np.int8)


def bias_of(
    lowering: Lowering, node: NodeProto, matrix: np.ndarray, weight: Constant, bias: Constant | None, x: IntegerTensor
) -> np.ndarray:
    """int32 (out,), in units of input scale times weight scale, the input's zero point taken out."""
    unit = x.scale * scale_of(weight)
    given = np.zeros(1) if bias is None else bias.values.astype(np.float64).reshape(-1)
    real = np.broadcast_to(given, len(matrix))  # Gemm's may be (1, out) or one number
    sums = matrix.astype(np.int64).reshape(len(matrix), -1).sum(1)
    taken_out: np.ndarray = np.floor(real / unit + 0.5) - x.zero_point * sums
    if not np.all(abs(taken_out) < 2**31):
        raise lowering.refusal(node, "its bias does not fit 32 bits, or is no number; its scale may be too small")
    integers: np.ndarray = taken_out.astype(np.int32)
    return integers
