"""Finds the modules of a network that can be taken out whole, because what they compute is added to their input."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, fx, nn

from pocketpipe.compression.taking_out import TakenOut
from pocketpipe.compression.tracing.block_probing import that_can_go, that_can_move
from pocketpipe.compression.tracing.ranges import Range, clamp_of, ranges_of
from pocketpipe.compression.tracing.walking import arguments, operator_name
from pocketpipe.compression.weights import layer_name
from pocketpipe.profile import Block, Layer

if TYPE_CHECKING:
    from pocketpipe.compression.tracing.buffer_list import Stored
    from pocketpipe.compression.tracing.tracer import TracedGroup

SAME = frozenset({"aten.dropout", "aten.feature_dropout", "aten.alpha_dropout", "aten.clone", "aten.contiguous",
                  "aten.alias", "aten.detach", "aten.to", "aten.view", "aten.reshape"})  # fmt: skip
"""Operators that, as a trained network is run, hand on what they are given, if its shape stays."""


@dataclass(frozen=True)
class Residual:
    """One module of the graph that adds to its input."""

    path: str
    entry: fx.Node
    """What comes in."""
    exit: fx.Node
    """What goes out."""
    inside: frozenset[fx.Node]
    added: frozenset[fx.Node]
    """What is added: with zeros for these, the exit is the entry."""
    parameters: tuple[str, ...]
    """First names of the parameters and buffers that nothing else reads."""


def removable_blocks(
    network: nn.Module,
    program: torch.export.ExportedProgram,
    first_names: Mapping[str, str],
    layers: Sequence[Layer],
    groups: Sequence[TracedGroup],
    stored: Stored,
) -> tuple[Block, ...]:
    """The blocks of `network` (CPU, float32, eval mode), in the order of the graph; `program` is its export.

    `first_names` gives the first name of every parameter and buffer; `layers`, `groups` and `stored` are what was
    traced.
    Of modules inside each other it is the innermost. What cannot be taken out, by the graph or by trying it, is none.
    """
    found = _that_keep_groups_apart(_Search(network, program, first_names).residuals(), groups)
    found = that_can_go(network, program, found)
    follows = _adjacent(found)
    movable = that_can_move(network, program, _chains(found, follows))
    return tuple(
        Block(
            name=residual.path,
            layers=tuple(layer.name for layer in layers if _belongs(layer, residual)),
            follows=follows[residual.path] if residual.path in movable else None,
            made=stored.made_inside(residual.inside, residual.entry),
        )
        for residual in found
    )


def _belongs(layer: Layer, residual: Residual) -> bool:
    """By its parameter; a product of activations, which has none, by the module that makes it."""
    if not layer.weight:
        return layer.name.startswith(f"{residual.path}.")
    return any(layer.name in (parameter, layer_name(parameter)) for parameter in residual.parameters)


@dataclass
class _Search:
    """Looks for residual additions in one exported graph."""

    network: nn.Module
    program: torch.export.ExportedProgram
    first_names: Mapping[str, str]
    stored: dict[fx.Node, str] = field(init=False)
    """Placeholders of parameters and buffers, with their first names."""
    constants: set[fx.Node] = field(init=False)
    ranges: dict[fx.Node, Range] = field(init=False)

    def __post_init__(self) -> None:
        signature = self.program.graph_signature
        names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        placeholders = [node for node in self.program.graph.nodes if node.op == "placeholder"]
        self.stored = {n: self.first_names.get(names[n.name], names[n.name]) for n in placeholders if n.name in names}
        self.constants = {n for n in placeholders if n.name in signature.inputs_to_lifted_tensor_constants}
        self.ranges = ranges_of(self.program.graph)

    def residuals(self) -> list[Residual]:
        """In the order in which their outputs are made."""
        position = {node: index for index, node in enumerate(self.program.graph.nodes)}
        calls = _calls(self.program.graph)
        taken = [path for path, module in self.network.named_modules() if isinstance(module, TakenOut)]
        found: list[Residual] = []
        for path in sorted(self._candidates(calls), key=lambda path: -path.count(".")):
            holds = [other for other in (*taken, *(r.path for r in found)) if other.startswith(f"{path}.")]
            residual = None if holds else self._residual(path, calls[path])
            if residual is not None:
                found.append(residual)
        return sorted(found, key=lambda residual: position[residual.exit])

    def _candidates(self, calls: Mapping[str, frozenset[fx.Node] | None]) -> list[str]:
        """Modules that are called once and known by one name."""
        names = Counter(id(module) for _, module in self.network.named_modules(remove_duplicate=False))
        once = {path for path, module in self.network.named_modules() if path and names[id(module)] == 1}
        return [path for path, nodes in calls.items() if nodes is not None and path in once]

    def _residual(self, path: str, inside: frozenset[fx.Node] | None) -> Residual | None:
        assert inside is not None
        entering = {s for n in inside for s in n.all_input_nodes if s not in inside} - {*self.stored, *self.constants}
        leaving = {node for node in inside if any(user not in inside for user in node.users)}
        if len(entering) != 1 or len(leaving) != 1:
            return None
        (entry,), (exit_,) = entering, leaving
        if not _same_form(entry, exit_):
            return None
        added = self._added(exit_, entry, inside)
        if not added or not all(_reads(node, entry, inside) for node in added):
            return None
        parameters = self._own_parameters(inside)
        return None if parameters is None else Residual(path, entry, exit_, inside, frozenset(added), parameters)

    def _added(self, node: fx.Node, entry: fx.Node, inside: frozenset[fx.Node]) -> list[fx.Node] | None:
        """What must be zero for `node` to be `entry`; None if nothing makes it so."""
        if node is entry:
            return []
        if node not in inside or node.op != "call_function" or not _same_form(node, entry):
            return None
        if operator_name(node).removesuffix("_") == "aten.add":
            return self._added_in(node, entry, inside)
        source = node.args[0] if node.args else None
        clamp = clamp_of(node)
        unclamped = clamp is not None and self.ranges[entry] in clamp
        if isinstance(source, fx.Node) and (_hands_on(node) or unclamped):
            return self._added(source, entry, inside)
        return None

    def _added_in(self, node: fx.Node, entry: fx.Node, inside: frozenset[fx.Node]) -> list[fx.Node] | None:
        given = arguments(node)
        one, other = given["self"], given["other"]
        if not isinstance(one, fx.Node) or not isinstance(other, fx.Node) or given.get("alpha", 1) != 1:
            return None
        ways = [(self._added(stream, entry, inside), branch) for stream, branch in ((one, other), (other, one))]
        through = [(before, branch) for before, branch in ways if before is not None]
        return [*through[0][0], through[0][1]] if len(through) == 1 else None

    def _own_parameters(self, inside: frozenset[fx.Node]) -> tuple[str, ...] | None:
        """Parameters and buffers that are read inside; None if one of them is read outside too."""
        users: dict[str, set[fx.Node]] = {}
        for node, name in self.stored.items():
            users.setdefault(name, set()).update(node.users)
        read = {name: by for name, by in users.items() if by & inside}
        return tuple(read) if all(by <= inside for by in read.values()) else None


def _calls(graph: fx.Graph) -> dict[str, frozenset[fx.Node] | None]:
    """The nodes made in the forward of each module; None if it is called more than once."""
    nodes: dict[str, dict[str, set[fx.Node]]] = {}
    for node in graph.nodes:
        for call, (path, _) in node.meta.get("nn_module_stack", {}).items():
            nodes.setdefault(path, {}).setdefault(call, set()).add(node)
    return {path: frozenset(*calls.values()) if len(calls) == 1 else None for path, calls in nodes.items()}


def _same_form(one: fx.Node, other: fx.Node) -> bool:
    here, there = one.meta.get("val"), other.meta.get("val")
    if not isinstance(here, Tensor) or not isinstance(there, Tensor):
        return False
    return here.shape == there.shape and here.dtype == there.dtype


def _hands_on(node: fx.Node) -> bool:
    return operator_name(node) in SAME and not arguments(node).get("train", False)


def _reads(node: fx.Node, entry: fx.Node, inside: frozenset[fx.Node]) -> bool:
    """Whether `node` is computed from `entry` (a position embedding is added too, but to no block's input)."""
    reached, open_nodes = set[fx.Node](), [node]
    while open_nodes:
        here = open_nodes.pop()
        if here is entry:
            return True
        fresh = [
            source for source in here.all_input_nodes if source not in reached and (source in inside or source is entry)
        ]
        reached.update(fresh)
        open_nodes.extend(fresh)
    return False


def _that_keep_groups_apart(found: Sequence[Residual], groups: Sequence[TracedGroup]) -> list[Residual]:
    """Without blocks that alone tell two groups of channels apart: without them the groups would be one."""
    inside = {name: residual.path for residual in found for name in residual.parameters}
    alike: dict[object, list[TracedGroup]] = {}
    for group in groups:
        outside = frozenset((place, i.shape[1]) for place, i in group.places.items() if place[0] not in inside)
        if outside:
            alike.setdefault((outside, group.reason), []).append(group)
    refused = set()
    for same in alike.values():
        seen = Counter((place, i.shape[1]) for group in same for place, i in group.places.items())
        refused |= {inside[name] for ((name, _), _), count in seen.items() if count < len(same)}
    return [residual for residual in found if residual.path not in refused]


def _adjacent(found: Iterable[Residual]) -> dict[str, str | None]:
    """For each block the one whose output is its input, and goes nowhere else."""
    makers = {residual.exit: residual for residual in found}
    follows: dict[str, str | None] = {}
    for residual in makers.values():
        before = makers.get(residual.entry)
        alone = before is not None and all(user in before.inside | residual.inside for user in residual.entry.users)
        follows[residual.path] = before.path if before is not None and alone else None
    return follows


def _chains(found: Iterable[Residual], follows: Mapping[str, str | None]) -> list[list[str]]:
    chains: list[list[str]] = []
    for residual in found:
        chain = next((chain for chain in chains if chain[-1] == follows[residual.path]), None)
        if chain is None:
            chains.append([residual.path])
        else:
            chain.append(residual.path)
    return chains
