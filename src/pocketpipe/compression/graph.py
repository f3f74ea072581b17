"""Walks a network's graph from input to output and collects which weight axes are tied to which."""

from __future__ import annotations

import operator
from collections.abc import Mapping

import torch
from torch import Tensor, fx

from pocketpipe.compression.activations import Activation
from pocketpipe.compression.rules import rule_for
from pocketpipe.compression.walking import Walk, inputs_of, unlabelled


def walk_graph(program: torch.export.ExportedProgram, names: Mapping[str, str], adaptive: frozenset[str]) -> Walk:
    """Walk the graph of `program`. `names` gives each parameter's and buffer's first name (tied ones have several)."""

    walk = Walk(adaptive)
    signature = program.graph_signature
    stored = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            name = stored.get(node.name)
            constant = node.name in signature.inputs_to_lifted_tensor_constants
            walk.values[node] = _placeholder(node, names.get(name or ""), constant)
        elif node.op == "output":
            walk.keep(inputs_of(walk, node), None)
        elif node.target is operator.getitem:
            source, index = node.args
            listed = walk.values.get(source)
            walk.values[node] = listed[index] if isinstance(listed, list) else unlabelled(node)
        elif node.op == "call_function":
            walk.values[node] = rule_for(node)(walk, node)
        else:
            walk.values[node] = unlabelled(node, f"a constant ({node.name!r})")
    return walk


def _placeholder(node: fx.Node, parameter: str | None, constant: bool) -> Activation | None:
    made = node.meta.get("val")
    if not isinstance(made, Tensor):
        return None
    shape = tuple(made.shape)
    if parameter is not None:
        return Activation(shape, parameter=parameter, origin=f"parameter {parameter!r}")
    return Activation(shape, origin=f"a constant in the code ({node.name!r})") if constant else Activation(shape)
