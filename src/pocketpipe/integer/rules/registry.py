"""Which rule is an ONNX operator's. An operator without one is refused by its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pocketpipe.integer.lowering import Lowering

if TYPE_CHECKING:
    from onnx import NodeProto

Rule = Callable[[Lowering, "NodeProto"], None]

RULES: dict[str, Rule] = {}

MOVING = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity", "Dropout", "Cast")
"""Operators that may stand between the network's input and its QuantizeLinear: they move it, number by number."""


def rule(*operators: str) -> Callable[[Rule], Rule]:
    """Makes a function the rule of these ONNX operators."""

    def keep(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(operators, function))
        return function

    return keep
