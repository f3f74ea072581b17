"""Between which numbers the tensors of a network's graph lie, whatever its weights and its input are."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import fx

from pocketpipe.compression.tracing.walking import arguments, operator_name


@dataclass(frozen=True)
class Range:
    """From `low` to `high`, both included.

    >>> Range(0, 4).hull(Range(-1, 1)), Range(1, 2) in Range(0, 6), Range(-3, 2).clamped(Range(0, 6))
    (Range(low=-1, high=4), True, Range(low=0, high=2))
    """

    low: float = -math.inf
    high: float = math.inf

    def __contains__(self, other: Range) -> bool:
        return self.low <= other.low and other.high <= self.high

    def hull(self, other: Range) -> Range:
        """The smallest range that holds both."""
        return Range(min(self.low, other.low), max(self.high, other.high))

    def clamped(self, to: Range) -> Range:
        """Where the values come to lie if they are clamped."""
        return Range(*(min(max(bound, to.low), to.high) for bound in (self.low, self.high)))


ANY = Range()
NOT_NEGATIVE = Range(low=0.0)
ZERO = Range(0.0, 0.0)

MADE = {
    **dict.fromkeys(("abs", "exp", "square"), NOT_NEGATIVE),
    **dict.fromkeys(("sigmoid", "hardsigmoid", "softmax"), Range(0.0, 1.0)),
    "tanh": Range(-1.0, 1.0),
}
"""What an operator makes of any input."""
SELECTS = frozenset({
    "alias", "amax", "amin", "clone", "contiguous", "detach", "dropout", "expand", "flatten", "max_pool1d",
    "max_pool2d", "mean", "permute", "reshape", "select", "slice", "squeeze", "transpose", "unsqueeze", "view",
})  # fmt: skip
"""Operators whose values lie where those of their first input lie."""
SELECTS_OR_ZERO = frozenset({"adaptive_avg_pool1d", "adaptive_avg_pool2d", "avg_pool1d", "avg_pool2d", "pad"})
"""The same, but they may put zeros in between."""


def ranges_of(graph: fx.Graph) -> dict[fx.Node, Range]:
    """The range of every node that makes a tensor. Of the sum of two tensors it holds both of them too: the sum's
    range is right also in a network in which one of them is left away."""
    ranges: dict[fx.Node, Range] = {}
    for node in graph.nodes:
        ranges[node] = _range(node, ranges) if node.op == "call_function" else ANY
    return ranges


def clamp_of(node: fx.Node) -> Range | None:
    """The range to which `node` clamps its first input, which it hands on otherwise; None if it does anything else."""
    name = _name(node)
    if name == "relu":
        return NOT_NEGATIVE
    if name == "relu6":
        return Range(0.0, 6.0)
    if name == "hardtanh":
        given = arguments(node)
        return Range(given["min_val"], given["max_val"])
    if name in ("clamp", "clip", "clamp_min", "clamp_max"):
        given = arguments(node)
        low, high = given.get("min"), given.get("max")
        bounds = (-math.inf if low is None else low, math.inf if high is None else high)
        return Range(*bounds) if all(isinstance(bound, int | float) for bound in bounds) else None
    return None


def _name(node: fx.Node) -> str:
    return operator_name(node).removeprefix("aten.").removesuffix("_")


def _range(node: fx.Node, ranges: dict[fx.Node, Range]) -> Range:
    name = _name(node)

    def of(argument: object) -> Range:
        return ranges.get(argument, ANY) if isinstance(argument, fx.Node) else _number(argument)

    if name in MADE:
        return MADE[name]
    if (clamp := clamp_of(node)) is not None:
        return of(node.args[0]).clamped(clamp)
    if name in SELECTS:
        return of(node.args[0])
    if name in SELECTS_OR_ZERO:
        return of(node.args[0]).hull(ZERO) if not arguments(node).get("value") else ANY
    if name == "cat" and isinstance(node.args[0], list | tuple):
        return _joined(list(map(of, node.args[0])), Range.hull)
    if name in ("add", "mul") and len(node.args) == 2 and not node.kwargs:
        one, other = map(of, node.args)
        return _sum(one, other) if name == "add" else _product(one, other)
    return ANY


def _number(argument: object) -> Range:
    return Range(argument, argument) if isinstance(argument, int | float) else ANY


def _joined(ranges: list[Range], by: Callable[[Range, Range], Range]) -> Range:
    whole = ranges[0]
    for each in ranges[1:]:
        whole = by(whole, each)
    return whole


def _sum(one: Range, other: Range) -> Range:
    return Range(one.low + other.low, one.high + other.high).hull(one).hull(other)


def _product(one: Range, other: Range) -> Range:
    return NOT_NEGATIVE if one in NOT_NEGATIVE and other in NOT_NEGATIVE else ANY
