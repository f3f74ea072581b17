"""What a channel is made by, read by and scaled by: the members of a traced group, with the modules they belong to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from pocketpipe.compression.modules import has_torchs_forward
from pocketpipe.compression.tracing import TracedGroup
from pocketpipe.compression.weights import layer_name, output_axis, parameter_name

Role = Literal["makes", "reads", "scales"]


@dataclass(frozen=True)
class Member:
    """One axis of one parameter that a group's channels lie on."""

    name: str
    """Of the parameter as stored (`network.named_parameters()`)."""
    dim: int
    indices: Tensor
    """(channels, positions of one channel) along the axis."""
    role: Role
    """`scales` is a vector: a bias, a scale of BatchNorm."""


@dataclass(frozen=True)
class Reader:
    """A convolution (not grouped, not transposed) or linear layer that reads channels of a group."""

    layer: str
    """Path of its module."""
    indices: Tensor
    """(channels, positions of one channel) along its weight's input axis."""


ReadingModule = _ConvNd | nn.Linear


def members(network: nn.Module, group: TracedGroup) -> Iterator[Member]:
    """The group's places that are parameters, each with its role; statistics and masks are left out."""
    parameters = dict(network.named_parameters())
    for (name, dim), indices in group.places.items():
        if name in parameters:
            role = "scales" if parameters[name].dim() == 1 else _role(network, group, name, dim)
            yield Member(name, dim, indices, role)


def _role(network: nn.Module, group: TracedGroup, name: str, dim: int) -> Role:
    if layer_name(name) not in group.members:
        return "reads"
    both = sum(other == name for other, _ in group.places) > 1  # a recurrent weight reads what it makes
    return "makes" if not both or dim == output_axis(_module(network, name)) else "reads"


def value_of(network: nn.Module, name: str) -> Tensor:
    """What the stored parameter amounts to, with all that lies on it: detached, on CPU, in double precision."""
    path, _, attribute = parameter_name(name).rpartition(".")
    value: Tensor = getattr(network.get_submodule(path), attribute)
    return value.detach().double().cpu()


def readers(network: nn.Module, group: TracedGroup) -> tuple[Reader, ...]:
    """The layers that read the group and whose output is a plain product with their weight, in graph order."""
    return tuple(
        Reader(layer, member.indices)
        for member in members(network, group)
        if member.dim == 1
        for layer in reading_layers(network, member.name)
    )


def reading_layers(network: nn.Module, name: str) -> tuple[str, ...]:
    """Paths of all layers that have the stored parameter as their weight, and are plain products with it."""
    parameters = dict(network.named_parameters(remove_duplicate=False))
    layers = (layer_name(other) for other, parameter in parameters.items() if parameter is parameters[name])
    found: dict[int, str] = {}
    for layer in layers:
        if (module := reading_module(network, layer)) is not None:
            found.setdefault(id(module), layer)  # one that has two names runs once, and is known by the first
    return tuple(found.values())


def reading_module(network: nn.Module, layer: str) -> ReadingModule | None:
    """The layer's module if its output is a plain product with its weight: not grouped, not transposed."""
    try:
        module = network.get_submodule(layer)
    except AttributeError:  # the layer is a bare parameter
        return None
    if isinstance(module, _ConvNd) and (module.groups > 1 or isinstance(module, _ConvTransposeNd)):
        return None
    return module if isinstance(module, ReadingModule) and has_torchs_forward(module) else None


def _module(network: nn.Module, name: str) -> nn.Module:
    return network.get_submodule(parameter_name(name).rpartition(".")[0])


def made_by_one(network: nn.Module, groups: Iterable[TracedGroup]) -> tuple[str, ...]:
    """Names of the groups whose channels one layer makes (depthwise convolutions aside): no addition ties them.

    In residual networks these are the groups inside the blocks.
    """
    modules = dict(network.named_modules())
    return tuple(
        group.name
        for group in groups
        if sum(getattr(modules.get(layer), "groups", 1) == 1 for layer in set(group.members)) == 1
    )
