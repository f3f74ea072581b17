"""Puts quantizers into a network: the same modules under the same names, and a forward that rounds between them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from pocketpipe.compression.quantization.places import LayerCall, Location, Place, find_places
from pocketpipe.compression.quantization.quantizers import ActivationQuantizer, WeightQuantizer
from pocketpipe.compression.quantization.symbolic import traced
from pocketpipe.compression.weights import laid_on, lay_on, layer_name, original_of, weight_of
from pocketpipe.errors import UserError

QUANTIZERS = "quantizers"
"""The submodule that holds the quantizers of tensors."""
BETWEEN = 8
"""Bits of tensors that are not multiplied by weights: sums, what is pooled or put out."""
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
    places = find_places(graph, quantized, separate_factors=bits.activations < BETWEEN)
    order = tuple(dict.fromkeys(call.layer for call in places.layers))
    if not order:
        raise UserError("quantization: the network has no layer with a weight")
    wanted = [place for place in places.tensors if not (output == "float" and place.is_output)]
    quantized.add_module(QUANTIZERS, nn.Module())
    device = next(quantized.parameters()).device
    rounded = _put_between(graph, quantized, [(place, bits.of_tensor(place, order)) for place in wanted])
    quantized.get_submodule(QUANTIZERS).to(device)
    _call_containers(graph, quantized, found.ends, rounded)
    forward = type(fx.GraphModule(quantized, graph)).forward
    _lay_on_weights(quantized, places.layers, {layer: bits.of_weight(layer, order) for layer in order}, granularity)
    own = type(quantized)
    quantized.__class__ = type(
        f"Quantized{own.__name__}",
        (QuantizedNetwork, own),
        {"forward": forward, "norms_to_fold": dict(places.norms), "__module__": own.__module__},
    )
    return quantized.train(network.training)


def quantizers_of(network: nn.Module) -> dict[str, ActivationQuantizer]:
    """The quantizers of tensors by name, in the order of the graph."""
    holder = network.get_submodule(QUANTIZERS)
    return {name: child for name, child in holder.named_children() if isinstance(child, ActivationQuantizer)}


def quantized_layers(network: nn.Module) -> tuple[str, ...]:
    """Names of the layers with a WeightQuantizer on their weight; of a weight with two names the first."""
    return tuple(
        layer_name(f"{path.rpartition('.')[0]}.original")
        for path, module in network.named_modules()
        if isinstance(module, WeightQuantizer)
    )


def layers_with_grids(network: nn.Module) -> tuple[str, ...]:
    """Names of the layers whose weights are integers times steps: by a quantizer, or by a codebook of integers."""
    lists = [
        layer_name(f"{path}.original")
        for path, module in network.named_modules(remove_duplicate=False)
        if isinstance(module, parametrize.ParametrizationList)
    ]
    return tuple(layer for layer in lists if _has_grid(network, layer))


def weight_quantizer(network: nn.Module, layer: str) -> WeightQuantizer:
    """The quantizer on the layer's weight. Raises StopIteration if there is none."""
    return next(each for each in laid_on(network, layer) if isinstance(each, WeightQuantizer))


def own_scale(network: nn.Module, layer: str) -> Tensor | None:
    """The step of a weight that lies on a grid of its own (a codebook of integers); None if there is none."""
    scales = [getattr(each, "grid_scale", None) for each in laid_on(network, layer)]
    return next((scale for scale in scales if isinstance(scale, Tensor)), None)


def _has_grid(network: nn.Module, layer: str) -> bool:
    laid = laid_on(network, layer)
    return own_scale(network, layer) is not None or any(isinstance(each, WeightQuantizer) for each in laid)


def _put_between(graph: fx.Graph, network: nn.Module, places: list[tuple[Place, int]]) -> dict[fx.Node, fx.Node]:
    """Call a new quantizer at each place. Returns for each node the one that rounds what it makes."""
    holder = network.get_submodule(QUANTIZERS)
    names = _Names()
    rounded: dict[fx.Node, fx.Node] = {}
    for place, bits in places:
        if place.readers is not None and bits >= BETWEEN:
            continue  # the quantizer before it has as many
        name = names.of(place, bits)
        if name not in holder._modules:
            holder.add_module(name, ActivationQuantizer(bits))
        source = rounded.get(place.node, place.node)
        with graph.inserting_after(source):
            quantizer = graph.call_module(f"{QUANTIZERS}.{name}", (source,))
        _redirect(source, quantizer, place.readers)
        rounded.setdefault(place.node, quantizer)
    return rounded


def _call_containers(
    graph: fx.Graph, network: nn.Module, ends: tuple[tuple[str, fx.Node], ...], rounded: dict[fx.Node, fx.Node]
) -> None:
    """Call each module that was looked into with what it makes, so that its hooks see it (distillation wants them)."""
    latest = dict(rounded)
    for path, node in ends:
        container = network.get_submodule(path)
        if not isinstance(container, _Passed):
            own = type(container)
            names = {"forward": _passed, "__module__": own.__module__}
            container.__class__ = type(f"Passed{own.__name__}", (_Passed, own), names)
        source = latest.get(node, node)
        with graph.inserting_after(source):
            call = graph.call_module(path, (source,))
        _redirect(source, call, None, rounded.get(node))
        latest[node] = call


class _Passed(nn.Module):
    """What the class of a container inherits from whose work the graph does."""


def _passed(self: nn.Module, x: Tensor) -> Tensor:
    return x


class _Names:
    """A name for each location in the code: the steps of a recurrent network share their quantizers."""

    def __init__(self) -> None:
        self._names: dict[tuple[Location, int, bool], str] = {}
        self._taken = set(dir(nn.Module()))

    def of(self, place: Place, bits: int) -> str:
        """`layer1_0_add`; `_factor` is added in front of products, a number where the name is taken."""
        is_factor = place.readers is not None
        key = (place.location, bits, is_factor)
        if key not in self._names:
            base = place.location.name.replace(".", "_")
            if is_factor:
                base = f"{self._names[place.location, BETWEEN, False]}_factor"
            count, free = 1, base
            while free in self._taken:
                count += 1
                free = f"{base}_{count}"
            self._taken.add(free)
            self._names[key] = free
        return self._names[key]


def _redirect(source: fx.Node, to: fx.Node, readers: tuple[fx.Node, ...] | None, but: fx.Node | None = None) -> None:
    """Let `readers` of `source` (None = all) read `to`; `but` goes on reading `source`."""

    def is_meant(user: fx.Node) -> bool:
        return user not in (to, but) and (readers is None or user in readers)

    source.replace_all_uses_with(to, delete_user_cb=is_meant)


def _lay_on_weights(
    network: nn.Module, calls: list[LayerCall], bits: Mapping[str, int], granularity: Granularity
) -> None:
    """A quantizer on each weight; one that has two names gets the same under both."""
    by_weight: dict[int, WeightQuantizer] = {}
    for call in {call.layer: call for call in calls}.values():
        if bits[call.layer] == FLOAT or own_scale(network, call.layer) is not None:
            continue
        shape = tuple(weight_of(network, call.layer).shape)
        axis = call.axis if granularity == "per_channel" else None
        new = WeightQuantizer(bits[call.layer], shape, axis).to(weight_of(network, call.layer).device)
        lay_on(network, call.layer, by_weight.setdefault(id(original_of(network, call.layer)), new))
