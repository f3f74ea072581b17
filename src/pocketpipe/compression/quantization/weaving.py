"""Changes a traced graph: calls of quantizers between its nodes."""

from __future__ import annotations

from torch import Tensor, fx, nn

from pocketpipe.compression.quantization.biases import BiasRounding
from pocketpipe.compression.quantization.operators import leads_to_integers, moves
from pocketpipe.compression.quantization.places import BiasPlace, Location, Place
from pocketpipe.compression.quantization.quantizers import ActivationQuantizer
from pocketpipe.compression.weights import change_class

QUANTIZERS = "quantizers"
"""The submodule that holds the quantizers of tensors."""
BETWEEN = 8
"""Bits of tensors that are not multiplied by weights: sums, what is pooled or put out."""


def put_between(graph: fx.Graph, network: nn.Module, places: list[tuple[Place, int]]) -> dict[fx.Node, fx.Node]:
    """Call a new quantizer at each place. Returns for each node the one that rounds what it makes."""
    holder = network.get_submodule(QUANTIZERS)
    names = _Names()
    rounded: dict[fx.Node, fx.Node] = {}
    for place, bits in places:
        if place.readers is not None and bits >= BETWEEN:
            continue  # the quantizer before it has as many
        name = names.of(place, bits)
        if name not in holder._modules:
            holder.add_module(name, ActivationQuantizer(bits, place.softmax_axis))
        known = holder.get_submodule(name)
        assert isinstance(known, ActivationQuantizer)
        if known.softmax_axis != place.softmax_axis:
            known.softmax_axis = None  # another call of the same code is read by something else
        source = rounded.get(place.node, place.node)
        with graph.inserting_after(source):
            quantizer = graph.call_module(f"{QUANTIZERS}.{name}", (source,))
        numbers = tuple(user for user in source.users if user is not quantizer and not leads_to_integers(user, network))
        _redirect(source, quantizer, place.readers or numbers)
        rounded.setdefault(place.node, quantizer)
    return rounded


def call_containers(
    graph: fx.Graph, network: nn.Module, ends: tuple[tuple[str, fx.Node], ...], rounded: dict[fx.Node, fx.Node]
) -> None:
    """Call each module that was looked into with what it makes, so that its hooks see it (distillation wants them)."""
    latest = dict(rounded)
    for path, node in ends:
        container = network.get_submodule(path)
        if not isinstance(container, _Passed):
            change_class(container, _passing)
        source = latest.get(node, node)
        with graph.inserting_after(source):
            call = graph.call_module(path, (source,))
        _redirect(source, call, None, rounded.get(node))
        latest[node] = call


class _Passed(nn.Module):
    """What the class of a container inherits from whose work the graph does."""


def _passing(own: type[nn.Module]) -> type[nn.Module]:
    return type(f"Passed{own.__name__}", (_Passed, own), {"forward": _passed, "__module__": own.__module__})


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
            self._names[key] = free_name(base, self._taken)
        return self._names[key]


def free_name(name: str, taken: set[str]) -> str:
    """The name, or one with a number; it is taken then.

    >>> free_name("relu", {"relu", "relu_2"})
    'relu_3'
    """
    count, free = 1, name
    while free in taken:
        count += 1
        free = f"{name}_{count}"
    taken.add(free)
    return free


def _redirect(source: fx.Node, to: fx.Node, readers: tuple[fx.Node, ...] | None, but: fx.Node | None = None) -> None:
    """Let `readers` of `source` (None = all) read `to`; `but` goes on reading `source`."""

    def is_meant(user: fx.Node) -> bool:
        return user not in (to, but) and (readers is None or user in readers)

    source.replace_all_uses_with(to, delete_user_cb=is_meant)


def round_biases(graph: fx.Graph, network: nn.Module, places: list[BiasPlace]) -> dict[fx.Node, fx.Node]:
    """Round the bias of each layer that reads from one quantizer only, at all its calls."""
    sources: dict[str, set[str | None]] = {}
    for place in places:
        sources.setdefault(str(place.call.target), set()).add(_source(place.call, network))
    holder = network.get_submodule(QUANTIZERS)
    rounded: dict[fx.Node, fx.Node] = {}
    for place in places:
        layer = str(place.call.target)
        (source, *others) = sources[layer]
        if source is None or others:
            continue
        norm = None if place.end is place.call else str(place.end.target)
        name = f"{layer.replace('.', '_')}_bias"
        if not hasattr(holder, name):
            holder.add_module(name, BiasRounding(layer, norm, source))
        with graph.inserting_after(place.end):
            rounding = graph.call_module(f"{QUANTIZERS}.{name}", (place.end,))
        _redirect(place.end, rounding, None)
        rounded[place.end] = rounding
    return rounded


def _source(call: fx.Node, network: nn.Module) -> str | None:
    """Path of the quantizer that rounds what a layer reads; None if something else than moving lies between."""
    node = call.args[0] if call.args else call.kwargs.get("input")
    while isinstance(node, fx.Node):
        if node.op == "call_module" and isinstance(network.get_submodule(str(node.target)), ActivationQuantizer):
            return str(node.target)
        if node.op in ("placeholder", "get_attr") or not moves(node, network):
            return None
        node = node.all_input_nodes[0]
    return None
