"""QDQ files, ours and ONNX Runtime's, as integer graphs: what ONNX Runtime computes from the same file in float."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compression.zoo import zoo
from integer.qdq import File, as_written, statically_quantized
from pocketpipe.errors import UserError
from pocketpipe.exporting.onnx import export_onnx
from pocketpipe.integer import reference
from pocketpipe.integer.graph import Add, Concatenation, IntegerGraph, Table
from pocketpipe.integer.lowering import lower
from pocketpipe.integer.proof import prove

TIES = 0.002
"""Share of numbers that may differ by one: float arithmetic rounds halves to even, and sums in another order."""


def outputs_of(graph: IntegerGraph, inputs: np.ndarray) -> np.ndarray:
    return graph.real(reference.run(graph, graph.quantized(inputs)))


def agrees(file: bytes, inputs: np.ndarray, share: float = TIES, steps: int = 1) -> IntegerGraph:
    """The graph, after checking that it computes what ONNX Runtime does. Odd scales: round ones make ties frequent."""
    graph = lower(file)
    prove(graph)
    difference = np.abs(outputs_of(graph, inputs) - as_written(file, inputs)) / graph.tensors[graph.output].scale
    assert difference.max() < steps + 1e-3
    assert (difference > 0.5).mean() <= share
    return graph


def some(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((8, *shape)).astype(np.float32)


@st.composite
def convolutions(draw: st.DrawFn) -> dict[str, int]:
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    return {
        "groups": groups,
        "channels": groups * draw(st.integers(1, 9)),
        "made": groups * draw(st.integers(1, 9)),
        "kernel": draw(st.integers(1, 3)),
        "stride": draw(st.integers(1, 2)),
        "pad": draw(st.integers(0, 2)),
        "dilation": draw(st.integers(1, 2)),
        "zero": draw(st.integers(-128, 127)),
        "seed": draw(st.integers(0, 999)),
    }


@settings(max_examples=25, deadline=None)
@given(convolutions(), st.booleans())
def test_any_convolution(c: dict[str, int], relu: bool) -> None:
    random = np.random.default_rng(c["seed"])
    file = File((c["channels"], 7, 6))
    x = file.on_grid("input", 0.0503, c["zero"])
    shape = (c["made"], c["channels"] // c["groups"], c["kernel"], c["kernel"])
    scales = random.uniform(0.001, 0.02, c["made"])
    weight = file.weight(random.integers(-127, 128, shape), scales)
    in_units = np.round(random.normal(0, 0.2, c["made"]) / (0.0503 * scales)) * 0.0503 * scales
    bias = file.constant(in_units.astype(np.float32))
    y = file.node("Conv", x, weight, bias, strides=[c["stride"]] * 2, pads=[c["pad"]] * 4,
                  dilations=[c["dilation"]] * 2, group=c["groups"])  # fmt: skip
    y = file.node("Relu", y) if relu else y
    made = file.bytes(file.on_grid(y, 0.1009, -7))
    agrees(made, some(c["seed"], c["channels"], 7, 6), share=0.01)


def test_a_convolution_of_one_dimension() -> None:
    file = File((3, 9))
    weight = file.weight(np.random.default_rng(0).integers(-127, 128, (4, 3, 3)), np.full(4, 0.0103))
    y = file.node("Conv", file.on_grid("input", 0.0211, 5), weight, pads=[1, 1])
    agrees(file.bytes(file.on_grid(y, 0.0507)), some(1, 3, 9))


def test_a_sum_of_tensors_on_different_grids_and_their_difference() -> None:
    for operator in ("Add", "Sub"):
        file = File((4, 5))
        one = file.on_grid("input", 0.0307, 3)
        other = file.on_grid(file.node("Neg", one), 0.0113, -20)
        graph = agrees(file.bytes(file.on_grid(file.node(operator, one, other), 0.0709, 1)), some(2, 4, 5))
        assert isinstance(graph.operators[-1], Add)


def test_functions_of_one_tensor_become_tables() -> None:
    for function in ("Sigmoid", "Tanh", "HardSwish", "Neg", "Exp", "Abs", "LeakyRelu"):
        file = File((6,))
        x = file.on_grid("input", 0.0401, 11)
        graph = agrees(
            file.bytes(file.on_grid(file.node(function, x), 0.05, -128 if function == "Exp" else 0)), some(3, 6)
        )
        assert [type(operator) for operator in graph.operators] == [Table]


def test_one_minus_x_is_a_table_and_a_product_of_tensors_is_not() -> None:
    file = File((5,))
    gate = file.on_grid(file.node("Sigmoid", file.on_grid("input", 0.0503)), 1 / 256, -128)
    rest = file.on_grid(file.node("Sub", file.constant(np.float32(1)), gate), 1 / 256, -128)
    graph = agrees(file.bytes(file.on_grid(file.node("Mul", gate, rest), 1 / 512, -128)), some(4, 5), share=0.05)
    assert [type(operator).__name__ for operator in graph.operators] == ["Table", "Table", "Multiply"]


def test_pooling_concatenation_slices_and_shapes() -> None:
    file = File((4, 6, 6))
    x = file.on_grid("input", 0.0307, -9)
    grid = (0.0231, 4)
    average = file.on_grid(file.node("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2]), *grid)
    largest = file.on_grid(file.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]), *grid)
    both = file.on_grid(file.node("Concat", average, largest, axis=1), *grid)
    amounts = file.constant(np.array([0, 0, 1, 0, 0, 0, 0, 2]))
    padded = file.node("Pad", both, amounts)
    cut = file.node("Slice", padded, *(file.constant(np.array([v])) for v in (1, 7, 1, 2)))
    turned = file.node("Transpose", cut, perm=[0, 2, 3, 1])
    flat = file.node("Reshape", turned, file.constant(np.array([1, -1])))
    graph = agrees(file.bytes(file.on_grid(flat, *grid)), some(5, 4, 6, 6))
    assert any(isinstance(operator, Concatenation) for operator in graph.operators)


def test_a_product_of_tensors() -> None:
    file = File((4, 6))
    x = file.on_grid("input", 0.0211, 8)
    turned = file.node("Transpose", x, perm=[0, 2, 1])
    agrees(file.bytes(file.on_grid(file.node("MatMul", x, turned), 0.0607, -30)), some(6, 4, 6))


def test_a_bias_that_is_added_after_the_product_joins_it() -> None:
    random = np.random.default_rng(0)
    file = File((3, 6))
    weight = file.weight(random.integers(-127, 128, (6, 5)), np.full(5, 0.0103), axis=1)
    y = file.node("MatMul", file.on_grid("input", 0.0211, 8), weight)
    y = file.node("Add", y, file.constant(random.normal(size=5).astype(np.float32)))
    graph = agrees(file.bytes(file.on_grid(y, 0.0507, 2)), some(7, 3, 6))
    assert len(graph.operators) == 1


@pytest.mark.parametrize(
    ("name", "shape"), [("resnet8", (1, 8, 8)), ("lenet", (1, 28, 28)), ("mobilenet_v2", (3, 16, 16))]
)
def test_what_onnx_runtime_quantized_itself(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    inputs = some(8, *shape)
    file = statically_quantized(export_onnx(zoo(name, shape), shape), inputs, tmp_path)
    agrees(file, inputs, share=0.2, steps=2)  # ties that fell the other way go on through the layers


def test_unsigned_activations_are_the_same_graph_shifted_by_128() -> None:
    graphs = []
    for dtype, offset in ((np.int8, 0), (np.uint8, 128)):
        file = File((3, 5, 5))
        weight = file.weight(np.random.default_rng(0).integers(-127, 128, (4, 3, 3, 3)), np.full(4, 0.0103))
        y = file.node("Conv", file.on_grid("input", 0.0211, offset + 5, dtype), weight)
        graphs.append(agrees(file.bytes(file.on_grid(y, 0.0507, offset - 3, dtype)), some(9, 3, 5, 5)))
    inputs = some(9, 3, 5, 5)
    assert np.array_equal(*(reference.run(graph, graph.quantized(inputs)) for graph in graphs))


def test_what_has_no_integer_form_is_refused_with_node_and_operator() -> None:
    file = File((5,))
    spread = file.node("Softmax", file.on_grid("input", 0.0503))
    with pytest.raises(UserError, match=r"node 'n5' \(Softmax\): has no integer form"):
        lower(file.bytes(file.on_grid(spread, 0.01)))
    file = File((2, 5, 5))
    floating = file.constant(np.zeros((2, 2, 1, 1), np.float32))
    with pytest.raises(UserError, match=r"node 'n\d+' \(Conv\): its weight 'c1' is not quantized"):
        lower(file.bytes(file.on_grid(file.node("Conv", file.on_grid("input", 0.0503), floating), 0.1)))
    file = File((5,))
    with pytest.raises(UserError, match="the network's output is not quantized"):
        lower(file.bytes(file.node("Sigmoid", file.on_grid("input", 0.0503))))
