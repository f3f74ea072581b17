"""A network's graph as quantization reads it: which layer is called where, and who reads what."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import fx, nn

from pocketpipe.compression.tracing import exported, first_names_of
from pocketpipe.compression.tracing.walking import arguments, operator_name
from pocketpipe.compression.weights import bare, laid_on, layer_name, original_of

LAYERS = {
    "aten.linear",
    *(f"aten.conv{dims}d" for dims in (1, 2, 3)),
    *(f"aten.conv_transpose{dims}d" for dims in (1, 2, 3)),
}


@dataclass(frozen=True)
class Call:
    """The only use of a layer's weight."""

    layer: str
    """As in NetworkProfile.layers."""
    node: fx.Node
    weight: fx.Node
    bias: str | None
    """Name of the parameter."""
    groups: int

    @property
    def transposed(self) -> bool:
        """Whether it is a transposed convolution, whose input channels lie along the weight's first axis."""
        return "transpose" in operator_name(self.node)


@dataclass(frozen=True)
class Reading:
    """The exported graph, in order of execution, with the names of parameters and buffers."""

    nodes: tuple[fx.Node, ...]
    names: dict[fx.Node, str]
    """For each node that stands for a parameter or buffer, the first name of that tensor."""

    @cached_property
    def calls(self) -> dict[fx.Node, Call]:
        """Layers whose weight and bias are used once, by the node that uses them."""
        uses: Counter[str] = Counter()
        for node, name in self.names.items():
            uses[name] += len(node.users)
        found = {}
        for node in self.nodes:
            if node.op != "call_function" or operator_name(node) not in LAYERS:
                continue
            given = arguments(node)
            weight, bias = given["weight"], given.get("bias")
            own = [self.names.get(each, "") for each in (weight, bias) if each is not None]
            if all(uses[name] == 1 for name in own):
                bias_name = None if bias is None else own[1]
                found[node] = Call(layer_name(own[0]), node, weight, bias_name, given.get("groups", 1))
        return found


def read(network: nn.Module, input_shape: tuple[int, ...]) -> Reading:
    """The graph of `network` in eval mode at one example of `input_shape` (without batch).

    What lies on weights is computed, modules that only round are not seen. Raises UserError without a static graph.
    """
    plain = bare(network).cpu().float().eval()
    program, first_names = exported(plain, input_shape), first_names_of(plain)
    stored = {**program.graph_signature.inputs_to_parameters, **program.graph_signature.inputs_to_buffers}
    nodes = tuple(program.graph.nodes)
    names = {node: first_names[stored[node.name]] for node in nodes if node.name in stored}
    return Reading(nodes, names)


@torch.no_grad()
def follows_scaling(network: nn.Module, layer: str) -> bool:
    """Whether what lies on the layer's weight lets factors through: nothing does, and masks do; a codebook does not.

    Tried out on random weights, so that it does not depend on those that there are.
    """
    generator = torch.Generator().manual_seed(0)
    original = original_of(network, layer)
    values = torch.randn(original.shape, generator=generator).to(original)
    factor = (torch.rand(original.shape, generator=generator) + 0.5).to(original)
    plain, scaled = values, values * factor
    for parametrization in laid_on(network, layer):
        plain, scaled = parametrization(plain), parametrization(scaled)
    return torch.allclose(plain * factor, scaled, rtol=1e-5, atol=1e-7)
