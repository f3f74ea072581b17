"""Constants around a tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from pocketpipe.integer.fixed_point import on_grid
from pocketpipe.integer.graph import IntegerTensor, Pad
from pocketpipe.integer.lowering import Lowering, label, last
from pocketpipe.integer.onnx_file import attributes
from pocketpipe.integer.real import Sum, Target
from pocketpipe.integer.rules.moving import on_the_grid_of
from pocketpipe.integer.rules.registry import rule

if TYPE_CHECKING:
    from onnx import NodeProto

NEARLY = 1e-3
"""Of a step: so far from the grid lies a number on it that was written in float32."""


@rule("Pad")
def pad(lowering: Lowering, node: NodeProto) -> None:
    """With a constant on the grid; with any, where QuantizeLinear follows, or where only maxima see one below it."""
    readers = lowering.readers.get(node.output[0], ())
    tensor = lowering.stored(node)
    if len(lowering.tensors[tensor].shape) == 3 and readers and all(reader.op_type == "Conv" for reader in readers):
        tensor = lowering.image(node)  # as these read it, which may pad by themselves then
    amounts, axes = lowering.constant(node, 1), lowering.constant(node, 3)
    if attributes(node).get("mode", b"constant") != b"constant" or amounts is None or axes is not None:
        raise lowering.refusal(node, "only constant pads, given for all axes (not reflected or repeated ones)")
    x, value = lowering.tensors[tensor], _value_around(lowering, node)
    before, after = np.split(amounts.values.astype(int), 2)
    if before[0] or after[0] or min(*before, *after) < 0:
        raise lowering.refusal(node, "pads the batch axis, or cuts")
    pairs = in_file = tuple((int(b), int(a)) for b, a in zip(before[1:], after[1:], strict=True))
    shape, image = lowering.shapes[node.output[0]], tensor in lowering.images
    if image:
        pairs, shape = last(pairs), last(shape)
    place = value / x.scale + x.zero_point
    integer = int(on_grid(value, x.scale, x.zero_point, -128, 127))
    is_met = abs(place - integer) <= NEARLY or (place < -128 and _see_no_pads(lowering, readers, in_file))
    if is_met:
        lowering.moved(Pad(label(node), (tensor,), node.output[0], pairs, integer), shape)
        low, high = min(x.low, integer), max(x.high, integer)
        lowering.tensors[node.output[0]] = IntegerTensor(shape, x.scale, x.zero_point, low, high)
        return
    if not readers or any(reader.op_type != "QuantizeLinear" for reader in readers):
        lowest, highest = ((end - x.zero_point) * x.scale for end in (-128, 127))
        grid = f"{lowest:g} to {highest:g} in steps of {x.scale:g}"
        raise lowering.refusal(node, f"its value {value:g} is not on its input's grid, {grid}; quantize what it makes")

    def finish(target: Target, low: int, high: int) -> None:
        part = on_the_grid_of(lowering, node, "padded", tensor, replace(target, low=low, high=high))
        around = int(on_grid(value, target.scale, target.zero_point, low, high))
        lowering.add(Pad(label(node), (part,), target.name, pairs, around), target.tensor(shape, low, high))

    lowering.known[node.output[0]] = Sum(shape, finish, label(node), image=image)


def _value_around(lowering: Lowering, node: NodeProto) -> float:
    value = lowering.constant(node, 2)
    if value is None and len(node.input) > 2 and node.input[2]:
        raise lowering.refusal(node, "its value must be a constant")
    return 0.0 if value is None else float(value.values.item())


def _see_no_pads(lowering: Lowering, readers: Sequence[NodeProto], amounts: Sequence[tuple[int, int]]) -> bool:
    """Whether all that read a padded image take maxima of windows that are longer than its pads."""

    def reaches(reader: NodeProto) -> bool:
        given = attributes(reader)
        if reader.op_type != "MaxPool" or any(given.get("pads", [])) or given.get("ceil_mode", 0):
            return False
        sizes = [1] * (len(amounts) - len(given["kernel_shape"])) + given["kernel_shape"]
        by_itself = given.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")
        return by_itself and all(max(pair) < size for pair, size in zip(amounts, sizes, strict=True))

    return bool(readers) and all(map(reaches, readers))
