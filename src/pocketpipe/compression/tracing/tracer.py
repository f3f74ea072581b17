"""Finds out from a network's graph which channels can be removed, which only together, and which not, and why."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, fx, nn

from pocketpipe.buffers import Buffer
from pocketpipe.compression.modules import no_fast_attention
from pocketpipe.compression.taking_out import TakenOut
from pocketpipe.compression.tracing.buffer_list import buffers_of, stored_by
from pocketpipe.compression.tracing.examples import stir
from pocketpipe.compression.tracing.graph import walk_graph
from pocketpipe.compression.tracing.inlining import inline_regions
from pocketpipe.compression.tracing.labels import Atom, Place
from pocketpipe.compression.tracing.layer_list import layers_of
from pocketpipe.compression.tracing.probing import Draft
from pocketpipe.compression.tracing.residual import removable_blocks
from pocketpipe.compression.tracing.resizing import resizable
from pocketpipe.compression.tracing.settling import settled
from pocketpipe.compression.tracing.walking import Choice, Size, Walk, module_paths
from pocketpipe.compression.weights import layer_name
from pocketpipe.errors import UserError, first_line
from pocketpipe.profile import Block, ChannelGroup, Layer, NetworkProfile


@dataclass(frozen=True)
class TracedGroup:
    """Channels that go together, and where they lie."""

    name: str
    channels: int
    members: tuple[str, ...]
    """Layers that make them, in graph order."""
    places: dict[Place, Tensor]
    """For each weight axis (channels, positions of one channel) the indices along it."""
    roots: Tensor
    """(channels,) the label that stands for each channel."""
    slimmable: bool
    reason: str | None


@dataclass(frozen=True)
class Adapter:
    """A module that adapts itself: labels along the channels of its input and output."""

    path: str
    inputs: Tensor
    outputs: Tensor


@dataclass(frozen=True)
class Trace:
    """What tracing found. Knows names and indices, holds no module."""

    input_shape: tuple[int, ...]
    groups: tuple[TracedGroup, ...]
    layers: tuple[Layer, ...]
    adapters: tuple[Adapter, ...]
    blocks: tuple[Block, ...] = ()
    taken_out: tuple[str, ...] = ()
    sizes: tuple[Size, ...] = ()
    """Numbers in modules that are the length of an axis."""
    buffers: tuple[Buffer, ...] = ()

    def profile(self) -> NetworkProfile:
        """The network's profile; `file_overhead` is not known here."""
        groups = tuple(
            ChannelGroup(
                name=group.name,
                channels=group.channels,
                members=group.members,
                slimmable=group.slimmable,
                reason=group.reason,
            )
            for group in self.groups
        )
        return NetworkProfile(
            input_shape=self.input_shape,
            layers=self.layers,
            groups=groups,
            blocks=self.blocks,
            taken_out=self.taken_out,
            buffers=self.buffers,
        )


_TRACES: WeakKeyDictionary[nn.Module, dict[tuple[int, ...], Trace]] = WeakKeyDictionary()


def trace(network: nn.Module, input_shape: tuple[int, ...]) -> Trace:
    """Trace `network` at one example of `input_shape` (without batch). Kept with the module: the search asks often.

    The network's structure must not change afterwards. Raises UserError for a network without a static graph.
    """
    known = _TRACES.setdefault(network, {})
    if input_shape not in known:
        known[input_shape] = _trace(_copied(network).cpu().float().eval(), input_shape)
    return known[input_shape]


def _copied(network: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(network)
    except RuntimeError as error:
        raise UserError(
            f"the network cannot be copied ({first_line(error)}); a weight that its forward computes and keeps "
            "(torch.nn.utils.weight_norm, spectral_norm)? Make it one before: torch.nn.utils.remove_weight_norm(module)"
        ) from None


def profile_of(network: nn.Module, input_shape: tuple[int, ...]) -> NetworkProfile:
    """Layers, shapes, MACs, parameters and channel groups of `network`; see `trace`."""
    return trace(network, input_shape).profile()


def _trace(network: nn.Module, input_shape: tuple[int, ...]) -> Trace:
    _see_through(network)
    stir(network, input_shape)
    program, first_names = exported(network, input_shape), first_names_of(network)
    stored = stored_by(program)
    adaptive = frozenset(
        path for path, module in network.named_modules() if callable(getattr(module, "keep_channels", None))
    )

    def drafted(choices: Mapping[str, Choice]) -> Draft:
        walk = walk_graph(program, first_names, adaptive, choices)
        roots = torch.from_numpy(np.append(walk.labels.roots(), -1))  # index -1, a fixed position, stands for itself
        groups = _groups(walk)
        sizes = tuple(replace(size, labels=roots[size.labels]) for size in walk.sizes)
        layers, buffers = layers_of(walk, groups, roots), buffers_of(stored, walk, groups, roots)
        trace = Trace(input_shape, groups, layers, _adapters(walk, roots), sizes=sizes, buffers=buffers)
        decisions = tuple(replace(decision, labels=roots[decision.labels]) for decision in walk.decisions)
        return Draft(trace, decisions, resizable(network, walk, roots))

    found = settled(network, drafted)
    blocks = removable_blocks(network, program, first_names, found.layers, found.groups, stored)
    places = sorted(path for path, module in network.named_modules() if isinstance(module, TakenOut))
    return replace(found, blocks=blocks, taken_out=tuple(places))


def _see_through(network: nn.Module) -> None:
    """Take out parametrizations that compute a weight from other tensors (`replaces_weight = True`: codebooks).

    What they make has the weight's shape, and channels no longer go once they are there: the graph is the same.
    """
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if getattr(child, "replaces_weight", False):
                setattr(module, name, nn.Identity())


def exported(network: nn.Module, input_shape: tuple[int, ...]) -> torch.export.ExportedProgram:
    """The network's graph at one example. Raises UserError for a network without a static one."""
    example = torch.zeros(1, *input_shape)
    with warnings.catch_warnings(), torch.no_grad(), no_fast_attention():
        warnings.simplefilter("ignore")  # deprecations inside torch
        try:
            program = torch.export.export(network, (example,), strict=False)
        except Exception as error:  # torch.export lets through whatever the network's own code raises
            raise UserError(
                f"network cannot be traced at input {input_shape} ({first_line(error)}); "
                "its forward must take one tensor and not depend on its values"
            ) from error
    inline_regions(program.graph_module)
    return program


def first_names_of(network: nn.Module) -> dict[str, str]:
    """Each name of a parameter or buffer -> the first name of the same tensor."""
    first: dict[int, str] = {}
    named = (*network.named_parameters(remove_duplicate=False), *network.named_buffers(remove_duplicate=False))
    return {name: first.setdefault(id(tensor), name) for name, tensor in named}


def _groups(walk: Walk) -> tuple[TracedGroup, ...]:
    """Atoms with the same members form a group; those that must stay because of input or output are no one's choice.

    Members, groups and so their names go by the order of layers in the graph, whatever lies on a weight.
    """
    makers = {(call.weight, call.out_axis): layer_name(call.weight) for call in walk.calls}
    gathered: dict[object, list[Atom]] = {}
    for atom in walk.labels.atoms():
        axes = frozenset((place, len(indices)) for place, indices in atom.places.items())
        gathered.setdefault((axes, atom.frozen, atom.reason), []).append(atom)
    groups: list[TracedGroup] = []
    taken: dict[str, int] = {}
    order = {place: index for index, place in enumerate(makers)}
    for atoms in sorted(gathered.values(), key=lambda atoms: min(order.get(p, len(order)) for p in atoms[0].places)):
        members = tuple(makers[place] for place in sorted(order.keys() & atoms[0].places.keys(), key=order.__getitem__))
        if not members or (atoms[0].frozen and atoms[0].reason is None):
            continue
        taken[members[0]] = taken.get(members[0], 0) + 1
        again = "" if taken[members[0]] == 1 else f":{taken[members[0]]}"
        groups.append(_group(members[0] + again, members, atoms))
    return tuple(groups)


def _group(name: str, members: tuple[str, ...], atoms: list[Atom]) -> TracedGroup:
    return TracedGroup(
        name=name,
        channels=len(atoms),
        members=members,
        places={place: torch.tensor([atom.places[place] for atom in atoms]) for place in atoms[0].places},
        roots=torch.tensor([atom.label for atom in atoms]),
        slimmable=not atoms[0].frozen and len(atoms) > 1,
        reason=atoms[0].reason or (_single(atoms[0]) if len(atoms) == 1 else None),
    )


def _single(atom: Atom) -> str:
    alone = all(len(indices) == 1 for indices in atom.places.values())
    return "a single channel" if alone else "all its channels go together, and the last one is never removed"


def _adapters(walk: Walk, roots: Tensor) -> tuple[Adapter, ...]:
    """For each module that adapts itself, the channels on its way in and out."""
    adapters = []
    for path in sorted(walk.adaptive):
        inside = {node for node in walk.values if path in module_paths(node)}
        entering = {source for node in inside for source in node.all_input_nodes if source not in inside}
        leaving = {node for node in inside if any(user in walk.needed and user not in inside for user in node.users)}
        labels_in, labels_out = _channels(walk, entering), _channels(walk, leaving)
        if not inside:
            continue  # never called: nothing to adapt
        if labels_in is None or labels_out is None:
            raise UserError(
                f"module {path!r} has keep_channels: it must be called once, "
                "with one tensor in and one out, both with channels"
            )
        adapters.append(Adapter(path, roots[labels_in], roots[labels_out]))
    return tuple(adapters)


def _channels(walk: Walk, nodes: set[fx.Node]) -> Tensor | None:
    if len(nodes) != 1:
        return None
    value = walk.value(next(iter(nodes)))
    return value.labels if value else None
