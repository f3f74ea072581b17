"""Recurrent modules that torch keeps as one operator: every hidden unit goes with its row of each gate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from pocketpipe.compression.tracing.activations import Activation
from pocketpipe.compression.tracing.rules.registry import rule, unknown
from pocketpipe.compression.tracing.walking import LayerCall, Walk, arguments, describe, operator_name

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


@dataclass(frozen=True)
class Cell:
    """The weights of one layer in one direction."""

    input: Activation
    """(gates * hidden, features)"""
    hidden: Activation
    """(gates * hidden, state)"""
    biases: tuple[Activation, ...]
    """Two of (gates * hidden,), or none."""
    projection: Activation | None = None
    """(state, hidden), of an LSTM whose state is narrower than its hidden units; else they are one."""


@rule("lstm", "gru", "rnn_tanh", "rnn_relu")
def recurrent(walk: Walk, node: fx.Node) -> Any:
    """All layers and directions of a module have one number of hidden units: unit i of each goes with the others'."""
    given = arguments(node)
    x, weights = walk.value(given.get("input")), [walk.value(each) for each in given["params"]]
    found = [weight for weight in weights if weight is not None and weight.parameter]
    if x is None or "batch_sizes" in given or len(found) < len(weights):
        return unknown(walk, node)
    directions = 2 if given["bidirectional"] else 1
    cells = _cells(found, given["num_layers"] * directions, given["has_biases"])
    states = [_cell(walk, node, cell, x.shape[0] * x.shape[1]) for cell in cells]
    state, memory = (walk.labels.tie_rows(torch.stack(lines), describe(node)) for lines in zip(*states, strict=True))
    output = Activation(_shapes(node)[0], 2, state.repeat(directions), describe(node))
    for index, cell in enumerate(cells):
        reads = x if index < directions else output
        walk.meet(walk.axis(cell.input.parameter or "", cell.input.shape, 1), reads, 2)
    _begin(walk, given["hx"], (state, memory), 2)
    last = zip(_shapes(node)[1:], (state, memory), strict=False)
    return [output, *(Activation(shape, 2, labels, describe(node)) for shape, labels in last)]


@rule("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
def cell(walk: Walk, node: fx.Node) -> Any:
    """One step of one layer."""
    given = arguments(node)
    x, *found = [walk.value(given[name]) for name in ("input", "w_ih", "w_hh", "b_ih", "b_hh")]
    weights = [weight for weight in found if weight is not None and weight.parameter]
    if x is None or len(weights) != (2 if given["b_ih"] is None else 4):
        return unknown(walk, node)
    only = Cell(weights[0], weights[1], tuple(weights[2:]))
    state, memory = _cell(walk, node, only, prod(x.shape[:-1]))  # frames or windows may lie in the batch
    walk.meet(walk.axis(only.input.parameter or "", only.input.shape, 1), x, 1)
    _begin(walk, given["hx"], (state, memory), 1)
    made = [Activation(shape, 1, state, describe(node)) for shape in _shapes(node)]
    return made if isinstance(node.meta["val"], (list, tuple)) else made[0]


def _cells(weights: Sequence[Activation], count: int, has_biases: bool) -> list[Cell]:
    """The module's flat list of weights, cell by cell."""
    each, biases = len(weights) // count, 2 if has_biases else 0
    parts = [weights[start : start + each] for start in range(0, len(weights), each)]
    return [
        Cell(part[0], part[1], tuple(part[2 : 2 + biases]), part[-1] if each == 3 + biases else None) for part in parts
    ]


def _cell(walk: Walk, node: fx.Node, cell: Cell, steps: int) -> tuple[Tensor, Tensor]:
    """(labels of the state, labels of the hidden units), tied to all weights but the columns that read the input."""
    operator = operator_name(node).removeprefix("aten.")
    gates, why = GATES[operator.removesuffix("_cell")], describe(node)
    rows = [walk.labels.of((weight.parameter or "", 0), weight.shape[0]) for weight in (cell.input, cell.hidden)]
    rows += [walk.labels.of((bias.parameter or "", 0), bias.shape[0]) for bias in cell.biases]
    units = [walk.labels.tie_rows(lines.view(gates, -1), why) for lines in rows]
    hidden = state = walk.labels.tie_rows(torch.stack(units), why)
    _note(walk, node, operator, cell.input, cell.biases[:1], steps)
    _note(walk, node, operator, cell.hidden, cell.biases[1:], steps)
    if cell.projection is not None:
        name, shape = cell.projection.parameter or "", cell.projection.shape
        state = walk.labels.of((name, 0), shape[0])
        walk.labels.tie(walk.labels.of((name, 1), shape[1]), hidden, why)
        walk.labels.freeze(hidden, f"{why}: torch wants more hidden units than its state, which is projected, is wide")
        _note(walk, node, operator, cell.projection, (), steps)
    walk.labels.tie(walk.labels.of((cell.hidden.parameter or "", 1), cell.hidden.shape[1]), state, why)
    return state, hidden


def _note(walk: Walk, node: fx.Node, operator: str, weight: Activation, bias: Sequence[Activation], steps: int) -> None:
    call = LayerCall(
        operator=operator,
        weight=weight.parameter or "",
        weight_shape=weight.shape,
        bias=bias[0].parameter if bias else None,
        out_axis=0,
        positions=steps,
        output_shape=_shapes(node)[0][1:],
        node=node,
    )
    walk.calls.append(call)


def _begin(walk: Walk, given: Any, labels: tuple[Tensor, Tensor], dim: int) -> None:
    """The state (and memory) before the first step is as wide as those after it."""
    for argument, line in zip(given if isinstance(given, (list, tuple)) else [given], labels, strict=False):
        before = walk.value(argument)
        if before is not None:
            walk.meet(line, before, dim)


def _shapes(node: fx.Node) -> list[tuple[int, ...]]:
    made = node.meta["val"]
    return [tuple(each.shape) for each in (made if isinstance(made, (list, tuple)) else [made])]
