"""Where a target leaves the reference: the first operator whose output is another integer, found by bisection.

A target is run on graphs that end earlier. After each operator some tensors are alive: read later on, or the output.
While all of them are right, whatever goes wrong happens later; where one is wrong, it happened already. So bisection
ends at an operator that was given the right integers and made wrong ones, branches or not. A difference that a later
operator wipes out (a clip, a maximum) is none in the outputs, and is not looked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from pocketpipe.doors import Value
from pocketpipe.integer import reference
from pocketpipe.integer.graph import IntegerGraph, Operator

Runner = Callable[[IntegerGraph, np.ndarray], np.ndarray]
"""(a graph, int8 inputs (N, ...)) -> int8 outputs (N, ...) of what a target makes of that graph."""

EXAMPLES = 4
"""On so many of the differing examples the graphs that end earlier are run: under an emulator each takes its time."""


class Difference(Value):
    """The first operator whose output differs from the reference's, with its integers."""

    operator: str
    kind: str
    """Its class in `integer.graph`."""
    position: int
    """In the graph's list of operators."""
    example: int
    """Of the inputs given."""
    index: tuple[int, ...]
    """The first differing element, in the shape of the tensor as the integer graph stores it."""
    expected: int
    found: int
    differing: int
    elements: int
    """Of the examples that were looked at: how many elements differ, and of how many."""

    @property
    def message(self) -> str:
        """One line for a person."""
        return (
            f"operator {self.position} {self.operator!r} ({self.kind}): element {list(self.index)} of example "
            f"{self.example} is {self.found}, and {self.expected} by the reference; "
            f"{self.differing:,} of {self.elements:,} elements differ"
        )


def first_difference(graph: IntegerGraph, run: Runner, inputs: np.ndarray) -> Difference | None:
    """The first operator that `run` computes otherwise than the reference on int8 `inputs` (N, ...); None if none is.

    Compiles and runs about log2(operators) graphs, more where branches are alive.
    """
    found, expected = run(graph, inputs), reference.run(graph, inputs)
    (examples,) = np.nonzero((found != expected).reshape(len(inputs), -1).any(1))
    if not len(examples):
        return None
    examples = examples[:EXAMPLES]
    few = inputs[examples]
    right = reference.run_all(graph, few)
    made = {graph.output: found[examples]}

    def wrong(tensor: str) -> bool:
        if tensor not in made:
            made[tensor] = run(ending_at(graph, tensor), few)
        return not np.array_equal(made[tensor], right[tensor])

    before, after = 0, len(graph.operators)  # operators done when all was right, and when something was wrong
    while after - before > 1:
        middle = (before + after) // 2
        if any(wrong(tensor) for tensor in alive(graph, middle)):
            after = middle
        else:
            before = middle
    operator = graph.operators[before]
    wrong(operator.output)
    return _difference(operator, before, examples, right, made)


def ending_at(graph: IntegerGraph, tensor: str) -> IntegerGraph:
    """The graph whose output is one of the tensors: only the operators that it needs."""
    needed, kept = {tensor}, []
    for operator in reversed(graph.operators):
        if operator.output in needed:
            needed.update(operator.inputs)
            kept.append(operator)
    used = {name: graph.tensors[name] for name in graph.tensors if name in {*needed, graph.input}}
    return IntegerGraph(used, tuple(reversed(kept)), graph.input, tensor)


def alive(graph: IntegerGraph, done: int) -> tuple[str, ...]:
    """Tensors made by the first `done` operators that later ones read, or that are the output; in order of making."""
    later = {name for operator in graph.operators[done:] for name in operator.inputs} | {graph.output}
    return tuple(operator.output for operator in graph.operators[:done] if operator.output in later)


def _difference(
    operator: Operator,
    position: int,
    examples: np.ndarray,
    right: Mapping[str, np.ndarray],
    made: Mapping[str, np.ndarray],
) -> Difference:
    expected, found = right[operator.output], made[operator.output]
    differing = np.argwhere(found != expected)
    example, *index = (int(place) for place in differing[0])
    return Difference(
        operator=operator.name,
        kind=type(operator).__name__,
        position=position,
        example=int(examples[example]),
        index=tuple(index),
        expected=int(expected[example, *index]),
        found=int(found[example, *index]),
        differing=len(differing),
        elements=expected.size,
    )
