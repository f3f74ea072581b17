"""Regions of a graph that torch keeps as graphs of their own, put back into it: what code runs under `autocast`."""

from __future__ import annotations

import operator
from typing import cast

import torch
from torch import fx

_BEFORE_GRAPH: dict[object, int] = {
    torch.ops.higher_order.wrap_with_autocast: 4,
    torch.ops.higher_order.wrap_with_set_grad_enabled: 1,
}
"""By operator, how many arguments come before the region's graph; its inputs follow."""


def inline_regions(module: fx.GraphModule) -> None:
    """Replace every such region by its nodes, but where autocast is switched on: its nodes alone compute otherwise."""
    for node in list(module.graph.nodes):
        if node.op == "call_function" and node.target in _BEFORE_GRAPH and not _casts(node):
            _inline(module, node)
    module.recompile()


def _casts(node: fx.Node) -> bool:
    """Its arguments are device, number format, whether it is on, and whether it caches."""
    return node.target is torch.ops.higher_order.wrap_with_autocast and bool(node.args[2])


def _inline(module: fx.GraphModule, node: fx.Node) -> None:
    graph = module.graph
    region, *inputs = cast("list[fx.Node]", node.args[_BEFORE_GRAPH[node.target] :])
    inner = cast(fx.GraphModule, module.get_submodule(str(region.target)))
    inline_regions(inner)
    places = dict(zip(inner.graph.find_nodes(op="placeholder"), inputs, strict=True))
    with graph.inserting_before(node):
        outputs = cast("tuple[fx.Node, ...]", graph.graph_copy(inner.graph, places))
    for user in list(node.users):
        assert user.target is operator.getitem, "a region gives a tuple"
        user.replace_all_uses_with(outputs[cast(int, user.args[1])])
        graph.erase_node(user)
    graph.erase_node(node)
    if not region.users:
        graph.erase_node(region)
