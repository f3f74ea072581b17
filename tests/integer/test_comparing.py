"""The first differing operator, found on runners that compute one operator wrongly in a known way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from integer.qdq import File
from pocketpipe.integer import reference
from pocketpipe.integer.comparing import Runner, alive, ending_at, first_difference
from pocketpipe.integer.graph import IntegerGraph, Operator
from pocketpipe.integer.lowering import lower


def branching() -> IntegerGraph:
    """Two branches of two operators each, that are summed and flattened, and a layer behind."""
    random = np.random.default_rng(0)
    file = File((3, 6, 6))
    x = file.on_grid("input", 0.0307, -9)

    def convolution(source: str) -> str:
        weight = file.weight(random.integers(-127, 128, (3, 3, 3, 3)), np.full(3, 0.0031))
        return file.on_grid(file.node("Conv", source, weight, pads=[1, 1, 1, 1]), 0.041, 3)

    both = file.node(
        "Add", convolution(convolution(x)), convolution(file.on_grid(file.node("Sigmoid", x), 1 / 256, -128))
    )
    flat = file.node("Reshape", file.on_grid(both, 0.0503, 1), file.constant(np.array([1, -1])))
    weight = file.weight(random.integers(-127, 128, (4, 108)), np.full(4, 0.0031))
    return lower(file.bytes(file.on_grid(file.node("Gemm", flat, weight, transB=1), 0.0507)))


def integers(count: int = 6) -> np.ndarray:
    return np.random.default_rng(1).integers(-128, 128, (count, 3, 6, 6)).astype(np.int8)


def wrong_at(name: str, spoilt: Callable[[np.ndarray], np.ndarray]) -> Runner:
    """A target on which the output of one operator is spoilt."""

    def run(graph: IntegerGraph, inputs: np.ndarray) -> np.ndarray:
        values = {graph.input: inputs}
        for operator in graph.operators:
            made = reference.compute(operator, *(values[name] for name in operator.inputs))
            values[operator.output] = spoilt(made) if operator.name == name else made
        return values[graph.output]

    return run


def far_off(made: np.ndarray) -> np.ndarray:
    """Another number in a single element, far enough off to reach the output."""
    spoilt = made.copy()
    spoilt.reshape(len(made), -1)[:, 2] ^= 64
    return spoilt


GRAPH = branching()


@pytest.mark.parametrize("position", range(len(GRAPH.operators)))
def test_whichever_operator_is_wrong_is_found_in_either_branch(position: int) -> None:
    operator = GRAPH.operators[position]
    difference = first_difference(GRAPH, wrong_at(operator.name, far_off), integers())
    assert difference is not None
    assert (difference.position, difference.operator) == (position, operator.name)
    assert difference.kind == type(operator).__name__
    assert difference.found == difference.expected ^ 64
    expected = reference.run_all(GRAPH, integers())[operator.output]
    assert expected[difference.example, *difference.index] == difference.expected
    assert np.ravel_multi_index(difference.index, expected.shape[1:]) == 2


def test_another_rounding_of_one_kind_of_operator_is_found_at_its_first_one() -> None:
    def halves_down(graph: IntegerGraph, inputs: np.ndarray) -> np.ndarray:
        return reference.run(replace(graph, operators=tuple(map(off_a_little, graph.operators))), inputs)

    def off_a_little(operator: Operator) -> Operator:
        if type(operator).__name__ != "Convolution":
            return operator
        factor = operator.requantization  # type: ignore[attr-defined]
        return replace(operator, requantization=replace(factor, zero_point=factor.zero_point - 1))  # type: ignore[call-arg]

    difference = first_difference(GRAPH, halves_down, integers())
    assert difference is not None
    first = next(n for n, operator in enumerate(GRAPH.operators) if type(operator).__name__ == "Convolution")
    assert difference.position == first
    assert difference.message == (
        f"operator {first} {GRAPH.operators[first].name!r} (Convolution): element {list(difference.index)} of example "
        f"{difference.example} is {difference.expected - 1}, and {difference.expected} by the reference; "
        f"{difference.differing:,} of {difference.elements:,} elements differ"
    )


def test_only_examples_that_differ_are_looked_at() -> None:
    def last_is_wrong(graph: IntegerGraph, inputs: np.ndarray) -> np.ndarray:
        found = reference.run(graph, inputs)
        chosen = (inputs == integers()[-1]).reshape(len(inputs), -1).all(1)
        return np.where(chosen.reshape(-1, *[1] * (found.ndim - 1)), found ^ 1, found)

    difference = first_difference(GRAPH, last_is_wrong, integers())
    assert difference is not None
    assert difference.example == 5


def test_a_right_target_has_no_difference() -> None:
    assert first_difference(GRAPH, reference.run, integers()) is None


def test_a_graph_that_ends_early_computes_the_same_tensor_with_what_it_needs() -> None:
    values = reference.run_all(GRAPH, integers())
    for operator in GRAPH.operators:
        ended = ending_at(GRAPH, operator.output)
        assert np.array_equal(reference.run(ended, integers()), values[operator.output])
        assert set(ended.tensors) == {ended.input, *(operator.output for operator in ended.operators)}
    assert len(ending_at(GRAPH, GRAPH.operators[-1].output).operators) == len(GRAPH.operators)
    assert len(alive(GRAPH, len(GRAPH.operators) // 2)) == 2  # one of each branch
