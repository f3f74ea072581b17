"""Accumulator proof: no sum can leave its bits, whatever the input. Worked out from the actual weights."""

from __future__ import annotations

import numpy as np

from pocketpipe.doors import Value
from pocketpipe.errors import Mistakes
from pocketpipe.integer.graph import Convolution, IntegerGraph, IntegerTensor, Linear, MatMul, Operator, SumPool

UNSIGNED_OFFSET = 128
"""What x86 adds to an input for its u8 x s8 products (and takes out of the bias again)."""


class Bound(Value):
    """The largest |sum| that one layer can reach on any way to it, and the bits that this takes."""

    layer: str
    largest: int
    """Over all inputs, all output channels, all partial sums in any order, inputs with an offset or without."""

    @property
    def bits(self) -> int:
        """Of a signed accumulator that holds it.

        >>> Bound(layer="conv", largest=127).bits, Bound(layer="conv", largest=128).bits
        (8, 9)
        """
        return self.largest.bit_length() + 1


def bounds(graph: IntegerGraph, offset: int = UNSIGNED_OFFSET) -> tuple[Bound, ...]:
    """One bound for each operator that sums: layers with weights, products of tensors, sums over windows; in order.

    `offset`: what may have been added to inputs (and taken out of the bias); 0 where a target takes them as they are.
    """
    found = (bound(operator, graph, offset) for operator in graph.operators)
    return tuple(each for each in found if each is not None)


def prove(graph: IntegerGraph, bits: int = 32, offset: int = UNSIGNED_OFFSET) -> tuple[Bound, ...]:
    """The bounds, if all fit an accumulator of `bits` bits. Raises Mistakes that name each layer that does not."""
    found = bounds(graph, offset)
    if over := [each for each in found if each.bits > bits]:
        raise Mistakes(
            [
                f"layer {bound.layer!r}: a sum can reach {bound.largest:,}, which takes {bound.bits} bits; "
                f"the accumulator has {bits}"
                for bound in over
            ]
        )
    return found


def bound(operator: Operator, graph: IntegerGraph, offset: int = UNSIGNED_OFFSET) -> Bound | None:
    """Of one operator; None for one that sums nothing."""
    if isinstance(operator, Convolution | Linear):
        tensor = graph.tensors[operator.inputs[0]]
        integers = operator.weight.astype(np.int64).reshape(len(operator.weight), -1)
        weight = np.abs(integers).sum(1)
        around = operator.padding_value if isinstance(operator, Convolution) else tensor.low
        signed = max(abs(tensor.low), abs(tensor.high), abs(around))
        farthest = max(tensor.high, around) + offset
        bias = operator.bias.astype(np.int64)
        taken_out = bias - offset * integers.sum(1)
        worst = max((weight * signed + abs(bias)).max(), (weight * farthest + abs(taken_out)).max())
        return Bound(layer=operator.name, largest=int(worst))
    if isinstance(operator, MatMul):
        left, right = (
            _farthest(graph.tensors[name], zero)
            for name, zero in zip(operator.inputs, operator.zero_points, strict=True)
        )
        return Bound(layer=operator.name, largest=graph.tensors[operator.inputs[0]].shape[-1] * left * right)
    if isinstance(operator, SumPool):
        farthest = _farthest(graph.tensors[operator.inputs[0]], operator.input_zero_point)
        return Bound(layer=operator.name, largest=operator.window[0] * operator.window[1] * farthest)
    return None


def _farthest(tensor: IntegerTensor, zero_point: int) -> int:
    """The largest |q - zero_point|."""
    return max(tensor.high - zero_point, zero_point - tensor.low)
