"""Accumulator proof: no sum can leave its bits, whatever the input. Worked out from the actual weights."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pocketpipe.doors import Value
from pocketpipe.errors import Mistakes
from pocketpipe.integer.graph import Convolution, IntegerGraph, IntegerTensor, Linear, MatMul, SumPool

UNSIGNED_OFFSET = 128
"""What x86 adds to an input for its u8 x s8 products (and takes out of the bias again)."""


class Bound(Value):
    """The largest |sum| that one layer can reach on any way to it, and the bits that this takes."""

    layer: str
    largest: int
    """Over all inputs, all output channels, all partial sums in any order, with signed or with offset inputs."""

    @property
    def bits(self) -> int:
        """Of a signed accumulator that holds it.

        >>> Bound(layer="conv", largest=127).bits, Bound(layer="conv", largest=128).bits
        (8, 9)
        """
        return self.largest.bit_length() + 1


def bounds(graph: IntegerGraph) -> tuple[Bound, ...]:
    """One bound for each operator that sums: layers with weights, products of tensors, sums over windows; in order."""
    return tuple(_bounds(graph))


def prove(graph: IntegerGraph, bits: int = 32) -> tuple[Bound, ...]:
    """The bounds, if all fit an accumulator of `bits` bits. Raises Mistakes that name each layer that does not."""
    found = bounds(graph)
    if over := [bound for bound in found if bound.bits > bits]:
        raise Mistakes(
            [
                f"layer {bound.layer!r}: a sum can reach {bound.largest:,}, which takes {bound.bits} bits; "
                f"the accumulator has {bits}"
                for bound in over
            ]
        )
    return found


def _bounds(graph: IntegerGraph) -> Iterator[Bound]:
    for operator in graph.operators:
        if isinstance(operator, (Convolution, Linear)):
            tensor = graph.tensors[operator.inputs[0]]
            weight = np.abs(operator.weight.astype(np.int64)).reshape(len(operator.weight), -1).sum(1)
            around = operator.padding_value if isinstance(operator, Convolution) else tensor.low
            signed = max(abs(tensor.low), abs(tensor.high), abs(around))
            offset = max(tensor.high, around) + UNSIGNED_OFFSET
            bias = operator.bias.astype(np.int64)
            taken_out = bias - UNSIGNED_OFFSET * operator.weight.astype(np.int64).reshape(len(weight), -1).sum(1)
            worst = max((weight * signed + abs(bias)).max(), (weight * offset + abs(taken_out)).max())
            yield Bound(layer=operator.name, largest=int(worst))
        elif isinstance(operator, MatMul):
            left, right = (
                _farthest(graph.tensors[name], zero)
                for name, zero in zip(operator.inputs, operator.zero_points, strict=True)
            )
            yield Bound(layer=operator.name, largest=graph.tensors[operator.inputs[0]].shape[-1] * left * right)
        elif isinstance(operator, SumPool):
            farthest = _farthest(graph.tensors[operator.inputs[0]], operator.input_zero_point)
            yield Bound(layer=operator.name, largest=operator.window[0] * operator.window[1] * farthest)


def _farthest(tensor: IntegerTensor, zero_point: int) -> int:
    """The largest |q - zero_point|."""
    return max(tensor.high - zero_point, zero_point - tensor.low)
