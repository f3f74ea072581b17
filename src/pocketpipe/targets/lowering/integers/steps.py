"""The integer graph as the steps that are executed: an addition belongs to the layer before it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from pocketpipe.integer.graph import (
    Add,
    Concatenation,
    Convolution,
    IntegerGraph,
    Linear,
    MaxPool,
    Operator,
    Pad,
    Slice,
    SumPool,
    Transpose,
)

OURS = (Convolution, Linear, MaxPool, Concatenation, Pad, Slice, Transpose)
"""What always has a kernel of ours."""


@dataclass(frozen=True)
class Step:
    """One operator, and the addition that is done before its result is stored."""

    operator: Operator
    addition: Add | None = None

    @property
    def own(self) -> int:
        """Which input of the addition is the operator's result."""
        assert self.addition is not None
        return self.addition.inputs.index(self.operator.output)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Tensors that are read; the other one of the addition last."""
        if self.addition is None:
            return self.operator.inputs
        return (*self.operator.inputs, self.addition.inputs[1 - self.own])

    @property
    def output(self) -> str:
        """The tensor that is written."""
        return self.operator.output if self.addition is None else self.addition.output


def steps(graph: IntegerGraph) -> list[Step]:
    """In order. An addition of two tensors of one shape goes to the later of the layers that make them, if any."""
    additions = _additions(graph)
    taken = {addition.output for addition in additions.values()}
    return [
        Step(operator, additions.get(operator.output)) for operator in graph.operators if operator.output not in taken
    ]


def _additions(graph: IntegerGraph) -> dict[str, Add]:
    """The addition that each layer takes over, by the layer's output."""
    uses = Counter([graph.output, *(name for operator in graph.operators for name in operator.inputs)])
    order = {operator.output: index for index, operator in enumerate(graph.operators)}
    layers = {operator.output for operator in graph.operators if isinstance(operator, Convolution | Linear)}
    found: dict[str, Add] = {}
    for operator in graph.operators:
        if not isinstance(operator, Add) or not same_shape(operator, graph):
            continue
        latest = max(operator.inputs, key=lambda name: order.get(name, -1))
        if latest in layers and uses[latest] == 1:
            found[latest] = operator
    return found


def left_to_plain_c(operator: Operator, graph: IntegerGraph) -> bool:
    """Whether it is left to plain C: there is no kernel of ours for it."""
    if isinstance(operator, Add):
        return not same_shape(operator, graph)
    if isinstance(operator, SumPool):
        return len(operator.requantization.multiplier) > 1
    return not isinstance(operator, OURS)


def same_shape(operator: Add, graph: IntegerGraph) -> bool:
    """Whether two tensors are added element by element, none of them repeated along an axis."""
    shapes = {graph.tensors[name].shape for name in (*operator.inputs, operator.output)}
    return len(operator.inputs) == 2 and len(shapes) == 1 and len(set(operator.inputs)) == 2
