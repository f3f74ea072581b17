"""Tries out what the graph says: a network without some of its channels must compute what it does with these at zero.

A graph shows numbers, not whether the code takes them from a tensor or has them written down. Running shows it.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from pocketpipe.compression.slimming import Kept, first_line, masked, slim

if TYPE_CHECKING:
    from pocketpipe.compression.tracing import Trace, TracedGroup

TOLERANCE = 1e-3
"""Largest difference between slim and masked, relative to the largest output. Rounding is far below, an error above."""


def with_probed(trace: Trace, network: nn.Module) -> Trace:
    """`trace` with those groups left whole without whose channels `network` fails or computes something else."""
    candidates = [group for group in trace.groups if group.slimmable]
    if not candidates or _problem(trace, network, candidates) is None:
        return trace
    problems = {group.name: _problem(trace, network, [group]) for group in candidates}
    groups = tuple(
        group if problems.get(group.name) is None else replace(group, slimmable=False, reason=problems[group.name])
        for group in trace.groups
    )
    return replace(trace, groups=groups)


def _problem(trace: Trace, network: nn.Module, groups: list[TracedGroup]) -> str | None:
    """What goes wrong when about a third of the channels of `groups` is removed; None if nothing does."""
    kept: Kept = {group.name: _some(group) for group in groups}
    names = ", ".join(group.name for group in groups)
    example = torch.randn(1, *trace.input_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = _first(masked(network, trace, kept)(example))
        slimmed = slim(network, trace, kept)
        try:
            found = _first(slimmed(example))
        except Exception as error:  # the forward is the user's code, and may fail in any way
            return f"module {names!r}: without some channels its network fails ({first_line(error)})"
    if found.shape == expected.shape and (found - expected).abs().max() <= TOLERANCE * expected.abs().max():
        return None
    return f"module {names!r}: without some channels its network computes something else; its code uses their position"


def _some(group: TracedGroup) -> list[int]:
    removed = random.Random(group.name).sample(range(group.channels), max(1, group.channels // 3))
    return [channel for channel in range(group.channels) if channel not in removed]


def _first(outputs: object) -> torch.Tensor:
    tensor: torch.Tensor = tree_leaves(outputs)[0]
    return tensor
