"""Tries out what the graph says: a network without some of its channels must compute what it does with these at zero.

A graph shows numbers, not whether the code takes them from a tensor, has them written down or keeps them in a module.
Running shows it. What does not run one way is tried another way, as long as there is one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pocketpipe.compression.slimming import Kept, first_line, masked, slim
from pocketpipe.compression.walking import Choice, Decision, Size

if TYPE_CHECKING:
    from pocketpipe.compression.tracing import Trace, TracedGroup

TOLERANCE = 1e-3
"""Largest difference between slim and masked, relative to the largest output. Rounding is far below, an error above."""

TURNS = 8
"""How often other ways are tried before what fails is left whole."""

Problems = dict[str, str]
"""By the group's name, what goes wrong without some of its channels."""


@dataclass(frozen=True)
class Draft:
    """What one walk through the graph says."""

    trace: Trace
    decisions: tuple[Decision, ...]
    """Nodes that leave open how channels go on, as this walk took them."""
    numbers: tuple[Size, ...]
    """Attributes of modules that may be the length of an axis."""

    def problems(self, network: nn.Module, groups: Sequence[TracedGroup], sizes: Sequence[Size]) -> Problems:
        """Those of `groups` that fail, each with what happens."""
        trace = replace(self.trace, sizes=(*self.trace.sizes, *sizes))
        problem = _problem(trace, network, groups) if groups else None
        if problem is None:
            return {}
        if len(groups) == 1:
            return {groups[0].name: problem}
        middle = len(groups) // 2
        found = {
            **self.problems(network, groups[:middle], sizes),
            **self.problems(network, groups[middle:], sizes),
        }
        return found or {group.name: problem for group in groups}  # each half is right, but not both: none may go


def settled(network: nn.Module, drafted: Callable[[Mapping[str, Choice]], Draft]) -> Trace:
    """The trace after all open ways were tried; groups without any are left whole, with the reason."""
    choices: dict[str, Choice] = {}
    for turn in count():
        draft = drafted(choices)
        trace, problems = _tried(network, draft)
        turned = _other_ways(draft, choices, problems, give_up=turn >= TURNS)
        if not turned:
            return _left_whole(trace, problems)
        choices.update(turned)
    raise AssertionError("unreachable")


def _tried(network: nn.Module, draft: Draft) -> tuple[Trace, Problems]:
    """The trace with the numbers in modules that must change, and what is wrong nevertheless."""
    groups = [group for group in draft.trace.groups if group.slimmable]
    problems = draft.problems(network, groups, ())
    sizes: tuple[Size, ...] = ()
    if problems:
        sizes = _sizes_that_help(network, draft, [group for group in groups if group.name in problems])
        problems = draft.problems(network, groups, sizes) if sizes else problems
    held = {group.name: group.reason for group in draft.trace.groups if not group.slimmable and group.reason}
    return replace(draft.trace, sizes=(*draft.trace.sizes, *sizes)), {**held, **problems}


def _sizes_that_help(network: nn.Module, draft: Draft, failing: Sequence[TracedGroup]) -> tuple[Size, ...]:
    """Numbers in modules with which those groups of `failing` can go that lie in modules of the same classes.

    What is right for one is taken to be right for all alike; whoever calls tries it on all.
    """
    helping: dict[tuple[str, str], Size] = {}
    alike: dict[frozenset[tuple[type, str]], list[TracedGroup]] = {}
    for group in failing:
        numbers = _numbers_of(network, draft, group)
        alike.setdefault(frozenset(numbers), []).append(group)
    for keys, groups in alike.items():
        needed = _needed(network, draft, groups[0], sorted(keys, key=str))
        for group in groups if needed else []:
            numbers = _numbers_of(network, draft, group)
            helping.update({(size.path, size.attribute): size for key in needed or () for size in numbers[key]})
    return tuple(helping.values())


Numbers = dict[tuple[type, str], list[Size]]
"""By the module's class and the attribute's name."""


def _numbers_of(network: nn.Module, draft: Draft, group: TracedGroup) -> Numbers:
    """Attributes that may be the length of an axis with channels of `group`, each once."""
    found: dict[tuple[str, str], Size] = {}
    for size in draft.numbers:
        if torch.isin(size.labels, group.roots).any():
            found.setdefault((size.path, size.attribute), size)
    numbers: Numbers = {}
    for size in found.values():
        numbers.setdefault((type(network.get_submodule(size.path)), size.attribute), []).append(size)
    return numbers


def _needed(
    network: nn.Module, draft: Draft, group: TracedGroup, keys: Sequence[tuple[type, str]]
) -> list[tuple[type, str]] | None:
    """The fewest of `keys` whose numbers must change with `group`; None if it does not help to change any."""
    numbers = _numbers_of(network, draft, group)

    def helps(some: Sequence[tuple[type, str]]) -> bool:
        return not draft.problems(network, [group], [size for key in some for size in numbers[key]])

    trials = [list(keys), *([other for other in keys if other != key] for key in keys), *([key] for key in keys)]
    needed = next((some for some in trials if some and helps(some)), None)
    for key in needed or ():
        fewer = [other for other in needed or () if other != key]
        needed = fewer if fewer and helps(fewer) else needed
    return needed


def _other_ways(draft: Draft, choices: Mapping[str, Choice], problems: Problems, *, give_up: bool) -> dict[str, Choice]:
    """What to choose next at the nodes that channels of failing groups go through; nothing if all was tried.

    First another axis, at all of a group's nodes in step; then, with the first axes again, other parts.
    """
    turned: dict[str, Choice] = {}
    for group in draft.trace.groups:
        if group.name not in problems:
            continue
        ways = [each for each in draft.decisions if each.open and torch.isin(each.labels, group.roots).any()]
        axes = [each for each in ways if each.has_another and not each.parts]
        parts = [each for each in ways if each.has_another and each.parts]
        for each in ways:
            before = choices.get(each.node, Choice())
            after = each.tried
            if give_up or not (axes or parts):
                after = each.options
            elif any(each is other for other in axes or parts):
                after = each.tried + 1
            elif not axes and not each.parts:
                after = 0
            if after != each.tried:
                turned.setdefault(each.node, Choice(after, before.problem or problems[group.name]))
    return turned


def _left_whole(trace: Trace, problems: Problems) -> Trace:
    groups = tuple(
        replace(group, slimmable=False, reason=f"module {group.name!r}: {problems[group.name]}")
        if group.slimmable and group.name in problems
        else group
        for group in trace.groups
    )
    return replace(trace, groups=groups)


def _problem(trace: Trace, network: nn.Module, groups: Sequence[TracedGroup]) -> str | None:
    """What goes wrong when about a third of the channels of `groups` is removed; None if nothing does."""
    kept: Kept = {group.name: _some(group) for group in groups}
    example = torch.randn(1, *trace.input_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = _first(masked(network, trace, kept)(example))
        slimmed = slim(network, trace, kept)
        try:
            found = _first(slimmed(example))
        except Exception as error:  # the forward is the user's code, and may fail in any way
            return f"without some channels its network fails ({first_line(error)})"
    if found.shape == expected.shape and (found - expected).abs().max() <= TOLERANCE * expected.abs().max():
        return None
    return "without some channels its network computes something else; its code uses their position"


def _some(group: TracedGroup) -> list[int]:
    removed = random.Random(group.name).sample(range(group.channels), max(1, group.channels // 3))
    return [channel for channel in range(group.channels) if channel not in removed]


def _first(outputs: object) -> Tensor:
    tensor: Tensor = tree_leaves(outputs)[0]
    return tensor
