"""Taylor: by how much the loss changes, to first order, if a channel goes (Molchanov et al. 2019)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pocketpipe.compression.members import Member, Reader, members, readers, reading_layers, reading_module
from pocketpipe.compression.modules import hooked, input_of, with_gradients
from pocketpipe.compression.sampling import channels_last
from pocketpipe.compression.tracing import TracedGroup
from pocketpipe.task import Task

BATCH = 32
"""Examples of one gradient, for groups whose weights are looked at: that of many vanishes near a minimum."""
SMOOTHING = 0.1
"""Of the labels: the loss of a network that has learned its examples by heart has no gradient otherwise."""


def taylor(
    network: nn.Module, groups: Sequence[TracedGroup], task: Task, inputs: Tensor, targets: Tensor
) -> dict[str, Tensor]:
    """Score (channels,) of each group's channels: the square of the loss's first-order change, summed over examples.

    The change is sum(activation * gradient) over all that layers read of the channel: set to zero there, it is gone.
    For a group that something else reads (a transposed or grouped convolution, a recurrent module, a bare parameter) it
    is sum(weight * gradient) over the weights that read it, which is the same sum for a batch together (Molchanov et
    al. 2019, eq. 8; over all its weights where none reads it). `inputs` (N, ...) are prepared, with their `targets`.
    """
    copied = copy.deepcopy(network).eval()
    for parameter in copied.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    ran = _that_run(copied, inputs[:1])
    reading = {group.name: readers(copied, group) for group in groups if _read_by_layers(copied, group, ran)}
    weighing = {group.name: _weighed(copied, group) for group in groups if group.name not in reading}
    layers = sorted({reader.layer for found in reading.values() for reader in found})
    parameters = {member.name: copied.get_parameter(member.name) for found in weighing.values() for member in found}
    scores = {group.name: torch.zeros(group.channels, dtype=torch.float64) for group in groups}
    for batch, wanted in zip(torch.split(inputs, BATCH), torch.split(targets, BATCH), strict=True):
        with with_gradients(copied), _read(copied, layers) as read:
            loss = task.loss(copied(batch).contiguous(), wanted, smoothing=SMOOTHING) * len(batch)
        sources = [*(tensor for _, tensor in read), *parameters.values()]
        gradients = torch.autograd.grad(loss, sources, allow_unused=True)
        products = [
            torch.zeros_like(source) if gradient is None else source.detach() * gradient
            for source, gradient in zip(sources, gradients, strict=True)
        ]
        activations = [(layer, product) for (layer, _), product in zip(read, products, strict=False)]
        weights = dict(zip(parameters, products[len(read) :], strict=True))
        for name, found in reading.items():
            scores[name] += _of_activations(copied, found, activations, len(batch)).square().sum(0).cpu()
        for name, members_of in weighing.items():
            scores[name] += _of_weights(members_of, weights).square().cpu()
    return scores


def _weighed(network: nn.Module, group: TracedGroup) -> list[Member]:
    """The weights whose products with their gradients tell what reads the group; all of them if nothing does."""
    found = list(members(network, group))
    return [member for member in found if member.role == "reads"] or found


@torch.no_grad()
def _that_run(network: nn.Module, example: Tensor) -> set[str]:
    """Paths of the modules whose forward is called: attention uses the weights of some of its own directly."""
    ran: set[str] = set()
    paths = dict(network.named_modules())
    handles = [
        module.register_forward_pre_hook(lambda module, inputs, path=path: ran.add(path))
        for path, module in paths.items()
    ]
    with hooked(handles):
        network(example)
    return ran


def _read_by_layers(network: nn.Module, group: TracedGroup, ran: Set[str]) -> bool:
    """Whether all that reads the group is a convolution or linear layer that is called, and there is one."""
    reading = [member for member in members(network, group) if member.role == "reads"]
    called = [member.dim == 1 and not ran.isdisjoint(reading_layers(network, member.name)) for member in reading]
    return len(called) > 0 and all(called)


@contextmanager
def _read(network: nn.Module, layers: Sequence[str]) -> Iterator[list[tuple[str, Tensor]]]:
    """(layer, what it read) for each run of each of `layers`, each with a gradient of its own."""
    seen: list[tuple[str, Tensor]] = []

    def hook(layer: str) -> Callable[[nn.Module, tuple[Tensor, ...], dict[str, Tensor]], tuple[Any, Any]]:
        def remember(module: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> tuple[Any, Any]:
            own = input_of(inputs, named).clone()  # apart from what other layers read of the same tensor
            own.requires_grad_(True)  # a recurrent network's first state has none of its own
            seen.append((layer, own))
            return (own, *inputs[1:]), {name: value for name, value in named.items() if name != "input"}

        return remember

    handles = [
        network.get_submodule(layer).register_forward_pre_hook(hook(layer), with_kwargs=True) for layer in layers
    ]
    with hooked(handles):
        yield seen


def _of_activations(
    network: nn.Module, found: Sequence[Reader], products: Sequence[tuple[str, Tensor]], examples: int
) -> Tensor:
    """(examples, channels): the change by each example if a channel is not read any more.

    (1, channels), by the batch, where the first axis of something that is read is not the examples (steps come first,
    windows).
    """
    parts = []
    for reader in found:
        module = reading_module(network, reader.layer)
        for layer, product in products:
            if layer == reader.layer and module is not None:
                summed = channels_last(module, product).double().flatten(1, -2).sum(1)
                parts.append(summed[:, reader.indices.to(summed.device)].sum(2))
    if any(len(part) != examples for part in parts):
        parts = [part.sum(0, keepdim=True) for part in parts]
    return torch.stack(parts).sum(0)


def _of_weights(found: Sequence[Member], products: Mapping[str, Tensor]) -> Tensor:
    """(channels,): the change by the batch if all weights of a channel are zero."""
    rows = [(member, products[member.name].double().movedim(member.dim, 0)) for member in found]
    parts = [each.reshape(len(each), -1).sum(1)[member.indices.to(each.device)].sum(1) for member, each in rows]
    return torch.stack(parts).sum(0)
