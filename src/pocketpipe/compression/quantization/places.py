"""Where the quantizers of a traced network go: a pure function of its graph.

Every tensor that a layer reads lies on a grid of integers. A layer, the BatchNorm behind it and a clipping activation
behind that are one place: integer hardware computes them at once. What only moves numbers keeps their grid.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import ParametrizationList

from pocketpipe.compression.quantization.layer_calls import WeightCall, layer_calls
from pocketpipe.compression.quantization.operators import (
    clips,
    makes_integers,
    module_of,
    moves,
    multiplies,
    operator_of,
    takes_norm,
)
from pocketpipe.compression.quantization.symbolic import EXAMPLE

_KEEPS_AXES = ("float", "to", "contiguous", "clone", "detach")


@dataclass(frozen=True)
class Location:
    """Where in the code something is computed."""

    name: str
    """`input`, `layer1.0.conv1`, `layer1.0.add`."""
    scope: str
    """Path of the module in whose forward it is."""
    index: int
    """1 for the first of that name in one call of the forward, and so on."""


@dataclass(frozen=True)
class Place:
    """Quantize what `node` makes, for all its readers or for some."""

    location: Location
    node: fx.Node
    readers: tuple[fx.Node, ...] | None = None
    """None = all that read it."""
    multiplied_by: tuple[str, ...] = ()
    """Layers that read it, directly or moved."""
    multiplied: bool = False
    """Whether it is a factor in products; else it is added, pooled or put out."""
    is_output: bool = False
    """Whether nothing but the output reads it."""
    softmax_axis: int | None = None
    """The axis along which nothing but a softmax reads it."""


@dataclass(frozen=True)
class BiasPlace:
    """The bias of `call`'s layer is complete after `end`: the call itself, or that of its BatchNorm."""

    call: fx.Node
    end: fx.Node


@dataclass
class Places:
    """What an insertion has to do."""

    tensors: list[Place] = field(default_factory=list)
    layers: list[WeightCall] = field(default_factory=list)
    norms: dict[str, str] = field(default_factory=dict)
    """Path of a layer -> path of the BatchNorm that is folded into it."""
    biases: list[BiasPlace] = field(default_factory=list)


def find_places(graph: fx.Graph, network: nn.Module, *, separate_factors: bool) -> Places:
    """All places of a graph from `symbolic.traced`.

    `separate_factors`: a tensor that is a factor and is added, too, gets a second place in front of the products.
    """
    found = Places()
    constant = _constants(graph, network)
    found.layers = [call for node in graph.nodes for call in layer_calls(node, network)]
    layers_of: dict[fx.Node, tuple[str, ...]] = {}
    for call in found.layers:
        layers_of[call.node] = (*layers_of.get(call.node, ()), call.layer)
    locations = _locations(graph)
    for node in graph.nodes:
        if node in constant or not _is_floating(node) or _moves(node, network) or _is_absorbed(node, network):
            continue
        end = _end_of_fusion(node, network, found)
        readers = [reader for reader in _readers(end, network)[0] if not makes_integers(reader)]
        factors = [reader for reader in readers if multiplies(reader, network)]
        split = separate_factors and 0 < len(factors) < len(readers)
        if readers:
            is_output = all(reader.op == "output" for reader in readers)
            place = Place(locations[node], end, is_output=is_output, softmax_axis=_softmax_axis(end, network))
            if factors and not split:
                place = replace(place, multiplied=True, multiplied_by=_layers(factors, layers_of))
            found.tensors.append(place)
        if split:
            found.tensors += _in_front_of_products(locations[node], end, network, layers_of)
    return found


def _softmax_axis(node: fx.Node, network: nn.Module) -> int | None:
    """The axis of the softmax that all that reads `node` computes; None if something else reads it."""
    axes: set[object] = set()
    for user in node.users:
        module = module_of(user, network)
        if isinstance(module, nn.Softmax):
            axes.add(module.dim)
        elif operator_of(user) == "softmax":
            axes.add(user.kwargs.get("dim", user.args[1] if len(user.args) > 1 else None))
        elif operator_of(user) in _KEEPS_AXES or isinstance(module, nn.Identity | nn.Dropout):
            axes.add(_softmax_axis(user, network))
        else:
            return None
    axis = axes.pop() if len(axes) == 1 else None
    return axis if isinstance(axis, int) else None


def _in_front_of_products(
    location: Location, node: fx.Node, network: nn.Module, layers_of: dict[fx.Node, tuple[str, ...]]
) -> Iterable[Place]:
    """A place for each form (as it is, moved) in which products read what `node` makes."""
    _, forms = _readers(node, network)
    for form in forms:
        factors = tuple(user for user in form.users if multiplies(user, network))
        if factors:
            yield Place(location, form, factors, _layers(factors, layers_of), multiplied=True)


def _layers(factors: Iterable[fx.Node], layers_of: dict[fx.Node, tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(layer for reader in factors for layer in layers_of.get(reader, ())))


def _locations(graph: fx.Graph) -> dict[fx.Node, Location]:
    """Where in the code each node is computed: the same for every call of a module of the network's own."""
    found: dict[fx.Node, Location] = {}
    counts: Counter[tuple[str, str]] = Counter()
    for node in graph.nodes:
        stack = list(node.meta.get("nn_module_stack", {}).items())
        if node.op == "call_module" and stack:
            stack.pop()  # torch's own module: what counts is who calls it
        call, (scope, _) = stack[-1] if stack else ("", ("", None))
        inside = "input" if node.op == "placeholder" else operator_of(node)
        name = inside if node.op in ("call_module", "placeholder") or not scope else f"{scope}.{inside}"
        counts[call, name] += 1
        found[node] = Location(name, scope, counts[call, name])
    return found


def _is_floating(node: fx.Node) -> bool:
    example = node.meta.get(EXAMPLE)
    return isinstance(example, Tensor) and example.is_floating_point()


def _constants(graph: fx.Graph, network: nn.Module) -> set[fx.Node]:
    """Nodes that are made of the network's own tensors alone."""
    constant: set[fx.Node] = set()
    for node in graph.nodes:
        weight = node.op == "get_attr" or isinstance(module_of(node, network), ParametrizationList)
        sources = node.all_input_nodes
        if weight or (sources and all(source in constant for source in sources)):
            constant.add(node)
    return constant


def _end_of_fusion(node: fx.Node, network: nn.Module, found: Places) -> fx.Node:
    """The last of the nodes that are computed at once, `node` first. Notes BatchNorm and bias on the way."""
    end = node
    follower = _only_user(end)
    if follower is not None and _folds(end, follower, network):
        found.norms[str(end.target)] = str(follower.target)
        end, follower = follower, _only_user(follower)
    if isinstance(layer := module_of(node, network), _ConvNd | nn.Linear) and (
        layer.bias is not None or end is not node
    ):
        found.biases.append(BiasPlace(node, end))
    if follower is not None and node.op != "placeholder" and not clips(end, network) and clips(follower, network):
        end = follower
    return end


def _is_absorbed(node: fx.Node, network: nn.Module) -> bool:
    """Whether `node` belongs to the place of the node before it."""
    sources = node.all_input_nodes
    if not sources or _only_user(sources[0]) is not node or not _is_floating(sources[0]):
        return False
    source = sources[0]
    if _folds(source, node, network):
        return True
    can_end = source.op not in ("placeholder", "get_attr") and not _moves(source, network)
    return can_end and clips(node, network) and not clips(source, network)


def _folds(layer: fx.Node, norm: fx.Node, network: nn.Module) -> bool:
    """Whether `norm` is folded into `layer`: both are called once."""
    once = all(
        sum(node.op == "call_module" and node.target == each.target for node in layer.graph.nodes) == 1
        for each in (layer, norm)
    )
    return once and norm.args[:1] == (layer,) and takes_norm(layer, norm, network)


def _only_user(node: fx.Node) -> fx.Node | None:
    users = list(node.users)
    return users[0] if len(users) == 1 else None


def _readers(node: fx.Node, network: nn.Module) -> tuple[list[fx.Node], list[fx.Node]]:
    """(what computes with the numbers of `node`, in order; the forms in which they are there: `node`, and moved)."""
    readers: dict[fx.Node, None] = {}
    forms = {node: None}
    waiting = [node]
    while waiting:
        form = waiting.pop(0)
        for user in form.users:
            if user.op == "output" or (_makes_tensors(user) and not _moves(user, network)):
                readers[user] = None
            elif _makes_tensors(user) and user not in forms and not makes_integers(user):
                forms[user] = None
                waiting.append(user)
    return list(readers), list(forms)


def _makes_tensors(node: fx.Node) -> bool:
    made = node.meta.get(EXAMPLE)
    return isinstance(made, Tensor) or (isinstance(made, tuple | list) and any(isinstance(m, Tensor) for m in made))


def _moves(node: fx.Node, network: nn.Module) -> bool:
    """Whether the numbers come from a tensor that was quantized; one of several results of an operator was not."""
    if operator_of(node) != "getitem" or isinstance(_source(node).meta.get(EXAMPLE), Tensor):
        return moves(node, network)
    return moves(_source(node), network)


def _source(node: fx.Node) -> fx.Node:
    return node.all_input_nodes[0]
