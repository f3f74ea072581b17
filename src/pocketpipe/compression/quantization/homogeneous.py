"""Operators f with f(s x) = s f(x) for positive s of each channel, and where the channels lie behind them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from math import prod

from torch import fx

from pocketpipe.compression.quantization.reading import Call
from pocketpipe.compression.tracing.walking import arguments, operator_name, shape_of

SAME_SHAPE = re.compile(
    r"aten\.(relu_?|leaky_relu_?|prelu|dropout_?|feature_dropout_?|alias|clone|contiguous|detach_?|lift_fresh_copy)"
)
WINDOWED = re.compile(
    r"aten\.(adaptive_)?(max|avg)_pool([123])d|aten\.upsample_(nearest|linear|bilinear|bicubic)([123])d"
)
RESHAPING = re.compile(r"aten\.(flatten|view|reshape|_unsafe_view|unsqueeze|squeeze)")


@dataclass(frozen=True)
class Carried:
    """A tensor that carries a layer's channels along `dim`, each on `repeat` positions in a row."""

    dim: int
    repeat: int


def made_by(call: Call) -> Carried:
    """A layer's output: channels last for a linear layer, behind the batch for a convolution."""
    return Carried(len(shape_of(call.node)) - 1 if operator_name(call.node) == "aten.linear" else 1, 1)


def carried_through(node: fx.Node, source: fx.Node, carried: Carried) -> Carried | None:
    """How the output of `node` carries what its input `source` does; None if it does not let factors through."""
    if node.op != "call_function" or node.args[0] is not source:
        return None
    name, given = operator_name(node), arguments(node)
    if name == "aten.prelu":
        return carried if carried.dim == 1 or prod(shape_of(given["weight"])) == 1 else None
    if SAME_SHAPE.fullmatch(name):
        return carried
    if window := WINDOWED.fullmatch(name):
        inside = len(shape_of(source)) - int(window[3] or window[5])
        return carried if carried.dim < inside else None
    if name in ("aten.mean", "aten.sum"):
        return _reduced(node, source, carried)
    if name in ("aten.pad", "aten.constant_pad_nd"):
        zeros = given.get("mode", "constant") != "constant" or not given.get("value")
        return carried if zeros and carried.dim < len(shape_of(source)) - len(given["pad"]) // 2 else None
    return _reshaped(shape_of(source), shape_of(node), carried) if RESHAPING.fullmatch(name) else None


def _reduced(node: fx.Node, source: fx.Node, carried: Carried) -> Carried | None:
    given, rank = arguments(node), len(shape_of(source))
    if not given.get("dim"):
        return None
    dims = {dim % rank for dim in given["dim"]}
    if carried.dim in dims:
        return None
    return carried if given["keepdim"] else replace(carried, dim=carried.dim - sum(dim < carried.dim for dim in dims))


def _reshaped(before: tuple[int, ...], after: tuple[int, ...], carried: Carried) -> Carried | None:
    """Axes before the channels must stay; those behind them may be drawn to them, as flattening does.

    >>> _reshaped((1, 8, 4, 4), (1, 128), Carried(1, 1))
    Carried(dim=1, repeat=16)
    """
    dim = carried.dim
    if len(after) <= dim or before[:dim] != after[:dim] or after[dim] % before[dim]:
        return None
    return Carried(dim, carried.repeat * after[dim] // before[dim])


def read_along(call: Call, source: fx.Node, carried: Carried) -> tuple[int, int] | None:
    """(axis of the weight, positions along it for each channel) where a layer reads the channels; None if it mixes."""
    shape = shape_of(call.weight)
    if call.node.args[0] is not source:
        return None
    if operator_name(call.node) == "aten.linear":
        return (1, carried.repeat) if carried.dim == len(shape_of(source)) - 1 else None
    if carried.dim != 1:
        return None
    if call.groups == 1:
        return (0 if call.transposed else 1), carried.repeat
    channels = shape_of(source)[1]
    if call.groups == channels:  # depthwise: its outputs of one channel lie in a row, or along another axis
        return 0, carried.repeat * shape[0] // channels
    return None
