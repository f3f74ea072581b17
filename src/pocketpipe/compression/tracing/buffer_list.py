"""Tensors of a network's graph that are stored while it runs, as the profile lists them, and how long each is needed.

Compilers differ in what they fuse. Here BatchNorm, ReLU and clips are part of the operator before them, views take
nothing, and everything else makes a tensor of its own: a compiler that fuses more needs less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, fx

from pocketpipe.buffers import Axis, Buffer, MadeInside, folded
from pocketpipe.compression.tracing.graph import needed_nodes
from pocketpipe.compression.tracing.layer_list import Lengths
from pocketpipe.compression.tracing.walking import Walk, operator_name

if TYPE_CHECKING:
    from pocketpipe.compression.tracing.tracer import TracedGroup

VIEWS = frozenset(f"aten.{name}" for name in (
    "view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "expand", "dropout", "feature_dropout",
    "alpha_dropout", "clone", "contiguous", "alias", "detach", "to", "_to_copy", "split", "chunk", "unbind",
))  # fmt: skip
"""Operators whose result lies where what they are given lies; of those that make a list, its parts are copied."""
PART_OF_THE_OPERATOR_BEFORE = frozenset(f"aten.{name}" for name in (
    "batch_norm", "_native_batch_norm_legit_no_training", "relu", "relu_", "relu6", "relu6_", "hardtanh",
    "hardtanh_", "clamp", "clamp_", "clip", "clip_", "clamp_min", "clamp_min_", "clamp_max", "clamp_max_",
))  # fmt: skip


@dataclass
class Stored:
    """What is stored, in the order in which it is made."""

    makers: list[fx.Node] = field(default_factory=list)
    """Whose value each buffer holds at first."""
    places: dict[fx.Node, int] = field(default_factory=dict)
    """The buffer in which what a node makes lies."""
    last: list[int] = field(default_factory=list)

    def made_inside(self, nodes: frozenset[fx.Node], entry: fx.Node) -> MadeInside | None:
        """The buffers that `nodes` make, which read that of `entry` alone; None if others are made in between."""
        made = [index for index, maker in enumerate(self.makers) if maker in nodes]
        if not made or entry not in self.places or made != list(range(made[0], made[-1] + 1)):
            return None
        return MadeInside(entry=self.places[entry], first=made[0], end=made[-1] + 1)

    def _make(self, node: fx.Node, reads: Sequence[int]) -> None:
        index = len(self.makers)
        for read in reads:
            self.last[read] = index
        self.makers.append(node)
        self.places[node] = index
        self.last.append(index)


def stored_by(program: torch.export.ExportedProgram) -> Stored:
    """Which values of `program` are stored."""
    stored, needed = Stored(), needed_nodes(program.graph)
    inputs = {*program.graph_signature.user_inputs}
    for node in program.graph.nodes:
        reads = [stored.places[source] for source in node.all_input_nodes if source in stored.places]
        if node.op == "placeholder" and node.name in inputs:
            stored._make(node, ())
        elif node.op == "output":
            for read in reads:
                stored.last[read] = len(stored.makers)
        elif reads and node in needed:
            if _takes_nothing(node, stored, needed):
                stored.places[node] = reads[0]
            else:
                stored._make(node, reads)
    return stored


def _takes_nothing(node: fx.Node, stored: Stored, needed: set[fx.Node]) -> bool:
    name = operator_name(node)
    if name in VIEWS or not isinstance(node.meta.get("val"), Tensor):
        return True
    return name in PART_OF_THE_OPERATOR_BEFORE and _read_by_it_alone(node, stored, needed)


def _read_by_it_alone(node: fx.Node, stored: Stored, needed: set[fx.Node]) -> bool:
    """Whether nothing but `node` reads what it is given, which is not the network's input."""
    source = node.all_input_nodes[0]
    place = stored.places.get(source)
    if not place:
        return False
    here = [other for other, at in stored.places.items() if at == place]
    return all(user in (node, *here) for other in here for user in other.users if user in needed)


def buffers_of(stored: Stored, walk: Walk, groups: Sequence[TracedGroup], roots: Tensor) -> tuple[Buffer, ...]:
    """Sizes in terms of groups; `roots` gives each label the one that stands for it."""
    lengths = Lengths(groups, roots)
    return tuple(
        Buffer(axes=_axes(node, walk, lengths), last=last)
        for node, last in zip(stored.makers, stored.last, strict=True)
    )


def _axes(node: fx.Node, walk: Walk, lengths: Lengths) -> tuple[Axis, ...]:
    shape = tuple(int(length) for length in node.meta["val"].shape)
    value = walk.value(node)
    labelled = value.dim if value is not None and value.labels is not None else None
    return folded(
        lengths.of((length, value.labels if value is not None and dim == labelled else None))
        for dim, length in enumerate(shape)
        if dim > 0
    )
