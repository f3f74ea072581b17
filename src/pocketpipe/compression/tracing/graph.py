"""Walks a network's graph from input to output and collects which weight axes are tied to which."""

from __future__ import annotations

import operator
from collections.abc import Mapping

import torch
from torch import Tensor, fx

from pocketpipe.compression.tracing.activations import Activation
from pocketpipe.compression.tracing.rules import rule_for
from pocketpipe.compression.tracing.walking import Choice, Walk, inputs_of, unlabelled


def walk_graph(
    program: torch.export.ExportedProgram,
    names: Mapping[str, str],
    adaptive: frozenset[str],
    choices: Mapping[str, Choice],
) -> Walk:
    """Walk the graph of `program`. `names` gives each parameter's and buffer's first name (tied ones have several)."""

    walk = Walk(adaptive, choices)
    signature = program.graph_signature
    stored = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    walk.needed |= needed_nodes(program.graph)
    for node in program.graph.nodes:
        walk.labels.binding = node in walk.needed
        if node.op == "placeholder":
            name = stored.get(node.name)
            constant = node.name in signature.inputs_to_lifted_tensor_constants
            walk.values[node] = _placeholder(node, names.get(name or ""), constant)
        elif node.op == "output":
            walk.keep(inputs_of(walk, node), None)
            walk.values[node] = None
        elif node.target is operator.getitem:
            source, index = node.args
            listed = walk.values.get(source) if isinstance(source, fx.Node) else None
            one_of_them = isinstance(listed, list) and isinstance(index, int)
            walk.values[node] = listed[index] if listed and one_of_them else unlabelled(node)
        elif node.op == "call_function":
            walk.values[node] = rule_for(node)(walk, node)
        else:
            walk.values[node] = unlabelled(node, f"a constant ({node.name!r})")
    walk.calls = [call for call in walk.calls if call.node in walk.needed]
    walk.products = [product for product in walk.products if product.node in walk.needed]
    return walk


def needed_nodes(graph: fx.Graph) -> set[fx.Node]:
    """The nodes on which the output depends. The others are run too, so that shapes must fit, but nothing reads them.

    What changes a tensor in place is needed: later nodes read that tensor, not the result.
    """
    needed: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        in_place = getattr(getattr(node.target, "_schema", None), "is_mutable", False)
        if node.op == "output" or in_place or any(user in needed for user in node.users):
            needed.add(node)
    return needed


def _placeholder(node: fx.Node, parameter: str | None, constant: bool) -> Activation | None:
    made = node.meta.get("val")
    if not isinstance(made, Tensor):
        return None
    shape = tuple(made.shape)
    if parameter is not None:
        return Activation(shape, parameter=parameter, origin=f"parameter {parameter!r}")
    return Activation(shape, origin=f"a constant in the code ({node.name!r})") if constant else Activation(shape)
