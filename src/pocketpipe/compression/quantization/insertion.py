"""Puts quantizers into a network: the same modules under the same names, and a forward that rounds between them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from torch import fx, nn

from pocketpipe.compression.modules import device_of
from pocketpipe.compression.quantization.biases import BiasRounding
from pocketpipe.compression.quantization.grids import own_step
from pocketpipe.compression.quantization.layer_calls import WeightCall
from pocketpipe.compression.quantization.places import Place, find_places
from pocketpipe.compression.quantization.quantizers import ActivationQuantizer, WeightQuantizer
from pocketpipe.compression.quantization.selecting import select_early
from pocketpipe.compression.quantization.symbolic import traced
from pocketpipe.compression.quantization.weaving import (
    BETWEEN,
    QUANTIZERS,
    call_containers,
    put_between,
    round_biases,
)
from pocketpipe.compression.weights import change_class, lay_on, layer_name, original_of, weight_of
from pocketpipe.errors import UserError

FLOAT = 32
"""The bits of a weight that is left alone."""

Granularity = Literal["per_channel", "per_tensor"]


@dataclass(frozen=True)
class Bits:
    """How many bits everything gets."""

    weights: int = 8
    activations: int = 8
    """Of factors of products: what convolutions and linear layers read."""
    first_last: int = 8
    """Of the first and the last layer: their weights, and what they read (if that is more than `activations`)."""
    layers: Mapping[str, int] = field(default_factory=dict)
    """Weights of single layers, by name; 32 = left in float."""

    def of_weight(self, layer: str, order: tuple[str, ...]) -> int:
        """Bits of a layer's weight; `order`: all layers, first one first."""
        at_the_end = layer in (order[0], order[-1])
        return self.layers.get(layer, self.first_last if at_the_end else self.weights)

    def of_tensor(self, place: Place, order: tuple[str, ...]) -> int:
        """Bits of a tensor between layers."""
        if not place.multiplied:
            return BETWEEN
        at_the_end = any(layer in (order[0], order[-1]) for layer in place.multiplied_by)
        return max(self.activations, self.first_last) if at_the_end else self.activations


class QuantizedNetwork(nn.Module):
    """What the class of a quantized network inherits from, beside the class that it had.

    `forward` runs through the quantizers. Containers (blocks, stages) do not compute any more: they are called with
    what they make, so that hooks see it.
    """

    norms_to_fold: ClassVar[Mapping[str, str]]
    """Path of a layer -> path of the BatchNorm that the export folds into it."""


def insert(
    network: nn.Module,
    input_shape: tuple[int, ...],
    bits: Bits,
    *,
    granularity: Granularity = "per_channel",
    output: Literal["float", "quantized"] = "quantized",
) -> nn.Module:
    """A copy of `network` with a quantizer on every weight and every tensor between layers, not yet calibrated.

    Raises UserError for a network that cannot be traced or has quantizers already.
    """
    quantized = copy.deepcopy(network)
    if hasattr(quantized, QUANTIZERS):
        raise UserError(f"quantization: the network has a submodule {QUANTIZERS!r} already; is it quantized twice?")
    found = traced(quantized, input_shape)
    graph = found.graph
    moved = select_early(graph)
    there = set(graph.nodes)
    ends = tuple((path, last) for path, node in found.ends if (last := moved.get(node, node)) in there)
    places = find_places(graph, quantized, separate_factors=bits.activations < BETWEEN)
    layers = _by_first_name(places.layers, quantized)
    order = tuple(dict.fromkeys(call.layer for call in layers))
    if not order:
        raise UserError("quantization: the network has no layer with a weight")
    wanted = [place for place in places.tensors if not (output == "float" and place.is_output)]
    quantized.add_module(QUANTIZERS, nn.Module())
    device = device_of(quantized)
    rounded = put_between(graph, quantized, [(place, bits.of_tensor(place, order)) for place in wanted])
    rounded = round_biases(graph, quantized, places.biases) | rounded
    call_containers(graph, quantized, ends, rounded)
    quantized.get_submodule(QUANTIZERS).to(device)
    forward = type(fx.GraphModule(quantized, graph)).forward
    _lay_on_weights(quantized, layers, {layer: bits.of_weight(layer, order) for layer in order}, granularity)
    members = {"forward": forward, "norms_to_fold": dict(places.norms)}
    change_class(quantized, lambda own: _quantized(own, members))
    for rounding in quantized.get_submodule(QUANTIZERS).children():
        if isinstance(rounding, BiasRounding):
            rounding.belong_to(quantized)
    return quantized.train(network.training)


def _quantized(own: type[nn.Module], members: Mapping[str, Any]) -> type[nn.Module]:
    return type(f"Quantized{own.__name__}", (QuantizedNetwork, own), {**members, "__module__": own.__module__})


def quantizers_of(network: nn.Module) -> dict[str, ActivationQuantizer]:
    """The quantizers of tensors by name, in the order of the graph."""
    holder = network.get_submodule(QUANTIZERS)
    return {name: child for name, child in holder.named_children() if isinstance(child, ActivationQuantizer)}


def _by_first_name(calls: list[WeightCall], network: nn.Module) -> list[WeightCall]:
    """The calls with each weight named as plans and profiles name it, whichever of those that share it is called."""
    first: dict[int, str] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        first.setdefault(id(parameter), layer_name(name))
    return [replace(call, layer=first.get(id(original_of(network, call.layer)), call.layer)) for call in calls]


def _lay_on_weights(
    network: nn.Module, calls: list[WeightCall], bits: Mapping[str, int], granularity: Granularity
) -> None:
    """A quantizer on each weight; one that several modules share is met once, and has it in all of them."""
    done: set[int] = set()
    for call in {call.layer: call for call in calls}.values():
        original = id(original_of(network, call.layer))
        if bits[call.layer] == FLOAT or original in done or own_step(network, call.layer) is not None:
            continue
        done.add(original)
        shape = tuple(weight_of(network, call.layer).shape)
        axis = call.axis if granularity == "per_channel" else None
        quantizer = WeightQuantizer(bits[call.layer], shape, axis).to(weight_of(network, call.layer).device)
        lay_on(network, call.layer, quantizer)
