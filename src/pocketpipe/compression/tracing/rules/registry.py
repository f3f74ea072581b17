"""Which rule is an operator's.

An operator without a rule is safe: the channels that it reads stay as they are, and the reason names it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from pocketpipe.compression.tracing.walking import Walk, describe, inputs_of, operator_name, unlabelled

Rule = Callable[[Walk, fx.Node], Any]

RULES: dict[str, Rule] = {}

ELEMENTWISE = "aten.add"
"""Operators that torch itself calls pointwise have the rule of this one."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Makes a function the rule of these ATen operators, whatever their overload."""

    def keep(function: Rule) -> Rule:
        RULES.update({f"aten.{name}": function for name in names})
        return function

    return keep


def rule_for(node: fx.Node) -> Rule:
    """The rule of the node's operator; of one that works in place, that of its other form."""
    name = operator_name(node)
    if name in RULES:
        return RULES[name]
    if torch.Tag.pointwise in getattr(node.target, "tags", ()):
        return RULES[ELEMENTWISE]
    plain = name.removesuffix("_")
    return RULES[ELEMENTWISE] if plain != name and _is_pointwise(plain) else RULES.get(plain, unknown)


def _is_pointwise(name: str) -> bool:
    """Whether torch calls some overload of the operator so; those that work in place do not inherit it."""
    packet = getattr(torch.ops.aten, name.removeprefix("aten."), None)
    overloads = () if packet is None else (getattr(packet, overload) for overload in packet.overloads())
    return any(torch.Tag.pointwise in overload.tags for overload in overloads)


def unknown(walk: Walk, node: fx.Node) -> Any:
    """No rule: all that it reads stays."""
    reason = f"{describe(node)}: no rule says what it does to channels"
    walk.keep(inputs_of(walk, node), reason)
    return unlabelled(node, reason)
