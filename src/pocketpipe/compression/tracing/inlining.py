"""Regions of a graph that torch keeps as graphs of their own, put back into it: what code runs under `autocast`."""

from __future__ import annotations

import operator

import torch
from torch import fx

_REGIONS = {
    torch.ops.higher_order.wrap_with_autocast: 4,
    torch.ops.higher_order.wrap_with_set_grad_enabled: 1,
}
"""By operator, how many arguments come before the region's graph; its inputs follow."""


def inline_regions(module: fx.GraphModule) -> None:
    """Replace every such region by its nodes. What is computed in float32 stays the same."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.op != "call_function" or node.target not in _REGIONS:
            continue
        region, *inputs = node.args[_REGIONS[node.target] :]
        inner = module.get_submodule(region.target)
        inline_regions(inner)
        places = dict(zip(inner.graph.find_nodes(op="placeholder"), inputs, strict=True))
        with graph.inserting_before(node):
            outputs = graph.graph_copy(inner.graph, places)
        for user in list(node.users):
            assert user.target is operator.getitem, "a region gives a tuple"
            user.replace_all_uses_with(outputs[user.args[1]])
            graph.erase_node(user)
        graph.erase_node(node)
        if not region.users:
            graph.erase_node(region)
    module.recompile()
