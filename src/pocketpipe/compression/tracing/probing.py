"""Tries out what the graph says: a network without some of its channels must compute what it does with these at zero.

A graph shows numbers, not whether the code takes them from a tensor, has them written down or keeps them in a module.
Running shows it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pocketpipe.compression.slimming import Kept, masked, slim
from pocketpipe.compression.tracing.examples import computes_the_same, examples_for, first_output
from pocketpipe.compression.tracing.walking import Decision, Size
from pocketpipe.errors import first_line

if TYPE_CHECKING:
    from pocketpipe.compression.tracing.tracer import Trace, TracedGroup

Problems = dict[str, str]
"""By the group's name, what goes wrong without some of its channels."""


NO_KIND: frozenset[object] = frozenset()


@dataclass(frozen=True)
class Draft:
    """What one walk through the graph says."""

    trace: Trace
    decisions: tuple[Decision, ...]
    """Nodes that leave open how channels go on, as this walk took them."""
    numbers: tuple[Size, ...]
    """Attributes of modules that may be the length of an axis."""


def tried(network: nn.Module, draft: Draft) -> tuple[Trace, Problems]:
    """The trace with the numbers in modules that must change, and what is wrong nevertheless."""
    groups = [group for group in draft.trace.groups if group.slimmable]
    problems = _problems(network, draft, groups, ())
    sizes: tuple[Size, ...] = ()
    if problems:
        sizes = _sizes_that_help(network, draft, [group for group in groups if group.name in problems])
        problems = _problems(network, draft, groups, sizes) if sizes else problems
    return replace(draft.trace, sizes=(*draft.trace.sizes, *sizes)), problems


def _problems(network: nn.Module, draft: Draft, groups: Sequence[TracedGroup], sizes: Sequence[Size]) -> Problems:
    """Those of `groups` that fail, each with what happens.

    A deep network has few kinds of them. One of each kind is tried, then all together that should be right.
    """
    trace = replace(draft.trace, sizes=(*draft.trace.sizes, *sizes))
    if _problem(network, trace, groups) is None:
        return {}
    kinds = _kinds(network, draft, groups)
    found = _each(network, trace, kinds.pop(NO_KIND, []))
    for alike in kinds.values():
        if (problem := _problem(network, trace, alike[:1])) is not None:
            found.update({group.name: problem for group in alike})
    right = [group for group in groups if group.name not in found]
    if found and _problem(network, trace, right) is None:
        return found
    return _each(network, trace, groups)


def _each(network: nn.Module, trace: Trace, groups: Sequence[TracedGroup]) -> Problems:
    """As `_problems`, by halves."""
    problem = _problem(network, trace, groups)
    if problem is None or len(groups) < 2:
        return {} if problem is None else {groups[0].name: problem}
    middle = len(groups) // 2
    found = {**_each(network, trace, groups[:middle]), **_each(network, trace, groups[middle:])}
    return found or {group.name: problem for group in groups}  # each half is right, but not both: none may go


def _kinds(
    network: nn.Module, draft: Draft, groups: Sequence[TracedGroup]
) -> dict[frozenset[object], list[TracedGroup]]:
    """Groups of equal size that go through nodes of the same names and may have to do with the same attributes.

    Those that have to do with neither are alike in nothing.
    """
    kinds: dict[frozenset[object], list[TracedGroup]] = {}
    for group in groups:
        nodes = {each.node.rstrip("_0123456789") for each in draft.decisions if _touch(each.labels, group)}
        told = {*nodes, *_numbers_of(network, draft, group)}
        kinds.setdefault(frozenset({*told, group.channels}) if told else NO_KIND, []).append(group)
    return kinds


def _touch(labels: Tensor, group: TracedGroup) -> bool:
    return bool(torch.isin(labels, group.roots).any())


def _sizes_that_help(network: nn.Module, draft: Draft, failing: Sequence[TracedGroup]) -> tuple[Size, ...]:
    """Numbers in modules with which those groups of `failing` can go that lie in modules of the same classes.

    What is right for one is taken to be right for all of its kind; whoever calls tries it on all.
    """
    helping: dict[tuple[str, str], Size] = {}
    for alike in _kinds(network, draft, failing).values():
        needed = _needed(network, draft, alike[0])
        for group in alike if needed else []:
            numbers = _numbers_of(network, draft, group)
            helping.update({(size.path, size.attribute): size for key in needed for size in numbers[key]})
    return tuple(helping.values())


Numbers = dict[tuple[type, str], list[Size]]
"""By the module's class and the attribute's name."""


def _numbers_of(network: nn.Module, draft: Draft, group: TracedGroup) -> Numbers:
    """Attributes that may be the length of an axis with channels of `group`, each once."""
    found: dict[tuple[str, str], Size] = {}
    for size in draft.numbers:
        if _touch(size.labels, group):
            found.setdefault((size.path, size.attribute), size)
    numbers: Numbers = {}
    for size in found.values():
        numbers.setdefault((type(network.get_submodule(size.path)), size.attribute), []).append(size)
    return numbers


def _needed(network: nn.Module, draft: Draft, group: TracedGroup) -> list[tuple[type, str]]:
    """The fewest attributes that must change with `group`, by class and name; none if that does not help."""
    numbers = _numbers_of(network, draft, group)
    keys = sorted(numbers, key=str)

    def helps(some: Sequence[tuple[type, str]]) -> bool:
        sizes = [size for key in some for size in numbers[key]]
        return not _each(network, replace(draft.trace, sizes=(*draft.trace.sizes, *sizes)), [group])

    trials = [keys, *([other for other in keys if other != key] for key in keys), *([key] for key in keys)]
    needed = next((some for some in trials if some and helps(some)), [])
    for key in list(needed):
        fewer = [other for other in needed if other != key]
        needed = fewer if fewer and helps(fewer) else needed
    return needed


def _problem(network: nn.Module, trace: Trace, groups: Sequence[TracedGroup]) -> str | None:
    """What goes wrong when about a third of the channels of `groups` is removed; None if nothing does."""
    if not groups:
        return None
    kept: Kept = {group.name: _some(group) for group in groups}
    without, slimmed = masked(network, trace, kept), slim(network, trace, kept)
    for example in examples_for(network, trace.input_shape):
        with torch.no_grad():
            try:
                expected = first_output(without(example.clone()))  # which code may change in place
            except Exception as error:  # the forward is the user's code, and may fail in any way
                return f"it cannot be tried out: the network fails on numbers drawn at random ({first_line(error)})"
            try:
                found = first_output(slimmed(example.clone()))
            except Exception as error:  # the forward is the user's code, and may fail in any way
                return f"without some channels its network fails ({first_line(error)})"
        if not expected.isfinite().all():
            return "it cannot be tried out: the network's outputs are not finite for numbers drawn at random"
        if not computes_the_same(found, expected):
            return "without some channels its network computes something else; its code uses their position"
        if expected.any():  # else a ReLU at the end may hide what differs
            break
    return None


def _some(group: TracedGroup) -> list[int]:
    removed = random.Random(group.name).sample(range(group.channels), max(1, group.channels // 3))
    if min(removed) == group.channels - len(removed):
        removed = list(range(len(removed)))  # without the last ones all others would keep their positions
    return [channel for channel in range(group.channels) if channel not in removed]
