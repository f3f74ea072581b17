"""Settles what a graph leaves open, by trying one way after the other for channels to go through its nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

import torch
from torch import nn

from pocketpipe.compression.tracing.probing import Draft, Problems, tried
from pocketpipe.compression.tracing.walking import Choice, Decision

if TYPE_CHECKING:
    from pocketpipe.compression.tracing.tracer import Trace, TracedGroup

TURNS = 8
"""How often other ways are tried before what fails is left whole."""

Choices = Mapping[str, Choice]
"""By the node's name."""


def settled(network: nn.Module, drafted: Callable[[Choices], Draft]) -> Trace:
    """The trace that runs, of those that `drafted` makes of choices.

    Groups for which no way runs are left whole, with the reason.
    """
    choices: dict[str, Choice] = {}
    for turn in count():
        draft = drafted(choices)
        trace, problems = tried(network, draft)
        turned = _turned(draft, choices, problems, last=turn >= TURNS)
        if not turned:
            return _left_whole(trace, problems)
        choices.update(turned)
    raise AssertionError("unreachable")


def _turned(draft: Draft, choices: Choices, problems: Problems, *, last: bool) -> dict[str, Choice]:
    """What to choose next where channels of a group that cannot go come through; nothing if all was tried."""
    turned: dict[str, Choice] = {}
    for group in draft.trace.groups:
        if group.slimmable and group.name not in problems:
            continue
        failed = group.slimmable or group.channels == 1
        problem = problems.get(group.name) or group.reason or ""
        for decision, after in _next(draft, group, last=last):
            before = choices.get(decision.node, Choice())
            choice = Choice(after, before.problem or problem, before.failed or failed)
            if after == decision.options and not choice.failed:
                choice = replace(choice, tried=0, closed=True)  # no way is to blame: they stay for another reason
            turned.setdefault(decision.node, choice)
    return turned


def _next(draft: Draft, group: TracedGroup, *, last: bool) -> Iterator[tuple[Decision, int]]:
    """The nodes that the group comes through, with the number of the way that each should take next.

    First another axis, at all of them in step; then, with the first axes again, other parts; then none.
    """
    ways = [each for each in draft.decisions if each.open and torch.isin(each.labels, group.roots).any()]
    more_axes = any(each.has_another and not each.parts for each in ways)
    more_parts = any(each.has_another and each.parts for each in ways)
    for each in ways:
        if last or not (more_axes or more_parts):
            yield each, each.options
        elif each.has_another and each.parts != more_axes:
            yield each, each.tried + 1
        elif not more_axes and not each.parts and each.tried:
            yield each, 0


def _left_whole(trace: Trace, problems: Problems) -> Trace:
    groups = tuple(
        replace(group, slimmable=False, reason=f"module {group.name!r}: {problems[group.name]}")
        if group.name in problems
        else group
        for group in trace.groups
    )
    return replace(trace, groups=groups)
