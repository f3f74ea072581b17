"""QDQ files, ours and ONNX Runtime's, as integer graphs: what ONNX Runtime computes from the same file in float."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from onnxruntime.quantization import QuantType

from compression.zoo import zoo
from integer.natively import natively
from integer.qdq import File, as_written, statically_quantized
from pocketpipe.errors import UserError
from pocketpipe.exporting.onnx import export_onnx
from pocketpipe.integer import reference
from pocketpipe.integer.graph import Add, Concatenation, Convolution, IntegerGraph, Table, Transpose
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


def of_opset(onnx_file: bytes, opset: int) -> bytes:
    model = onnx.load_from_string(onnx_file)
    model.opset_import[0].version = opset
    data: bytes = model.SerializeToString()
    return data


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


def test_an_input_of_fewer_bits_is_cut_to_them() -> None:
    file = File((3, 9))
    cut = file.node("Clip", "input", file.constant(np.float32(-7 * 0.211)), file.constant(np.float32(8 * 0.211)))
    weight = file.weight(np.random.default_rng(0).integers(-7, 8, (4, 3, 3)), np.full(4, 0.0503))
    y = file.node("Conv", file.on_grid(cut, 0.211), weight, pads=[1, 1])
    graph = agrees(file.bytes(file.on_grid(y, 0.0507)), some(1, 3, 9))
    assert (graph.tensors[graph.input].low, graph.tensors[graph.input].high) == (-7, 8)


def test_a_convolution_of_one_dimension() -> None:
    file = File((3, 9))
    weight = file.weight(np.random.default_rng(0).integers(-127, 128, (4, 3, 3)), np.full(4, 0.0103))
    y = file.node("Conv", file.on_grid("input", 0.0211, 5), weight, pads=[1, 1])
    agrees(file.bytes(file.on_grid(y, 0.0507)), some(1, 3, 9))


def test_a_sum_of_tensors_on_different_grids_and_their_difference() -> None:
    for operator in ("Add", "Sub", "Sum"):
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


FURTHER = {
    "Log": {}, "Softsign": {}, "Sin": {}, "Cos": {}, "Sign": {}, "Floor": {}, "Ceil": {}, "Round": {}, "Selu": {},
    "Celu": {"alpha": 0.7},
}  # fmt: skip


@pytest.mark.parametrize("function", FURTHER)
def test_further_functions_become_tables(function: str) -> None:
    """Steps of 0.1, so that whole numbers and halves lie on the grid. A logarithm is asked of what is above 0 alone."""
    file, above = File((256,)), function == "Log"
    x = file.on_grid("input", 0.1, -129 + 1 if above else 11)
    y = file.on_grid(file.node(function, x, **FURTHER[function]), 0.0507, 3)
    every = (np.arange(-128, 128)[None] + (129 if above else -11)) * np.float32(0.1)
    graph = agrees(file.bytes(y), every.astype(np.float32), share=0.01)
    assert [type(operator) for operator in graph.operators] == [Table]


@pytest.mark.parametrize(("operator", "numbers"), [("Max", [-0.31]), ("Min", [0.42]), ("Min", [0.9, 0.3]), ("Max", [])])
@pytest.mark.parametrize("waits", [True, False])
def test_the_larger_of_a_tensor_and_a_number_is_a_clip(operator: str, numbers: list[float], waits: bool) -> None:
    file = File((6,))
    x = file.on_grid("input", 0.0211, 5)
    if waits:
        x = file.node("MatMul", x, file.weight(np.random.default_rng(0).integers(-127, 128, (6, 4)), np.full(1, 0.01)))
    given = [file.constant(np.array(number, np.float32)) for number in numbers]
    y = file.on_grid(file.node(operator, *given[1:], x, *given[:1]), 0.0307, -5)
    graph = agrees(file.bytes(y), some(3, 6))
    assert len(graph.operators) == 1


@pytest.mark.parametrize(
    "clips", [[(-3, -1), (0, 9)], [(0, 9), (-5, -1)], [(-3, -1), (1, 3)], [(0.5, -0.5)], [(-1, 2), (0, 3), (-9, 1)]]
)
def test_each_clip_cuts_what_the_one_before_left(clips: list[tuple[float, float]], tmp_path: Path) -> None:
    file = File((6,))
    y = file.on_grid("input", 0.03)
    y = file.node("MatMul", y, file.weight(np.random.default_rng(0).integers(-127, 128, (6, 4)), np.full(1, 0.01)))
    for bounds in clips:
        y = file.node("Clip", y, *(file.constant(np.float32(each)) for each in bounds))
    examples = np.random.default_rng(1).normal(size=(32, 6)).astype(np.float32)
    graph = agrees(file.bytes(file.on_grid(y, 0.05, 3)), examples)
    (compiled,) = natively([graph], tmp_path)
    integers = graph.quantized(examples)
    assert np.array_equal(compiled(integers), reference.run(graph, integers))


def test_what_is_no_onnx_file_is_refused() -> None:
    with pytest.raises(UserError, match="this is no ONNX file"):
        lower(b"abc")


def _multiplies_rows_alone(file: File) -> str:
    x = file.on_grid(file.node("Flatten", "input"), 0.05)
    return file.node("Gemm", x, x, transB=1)


def _has_a_weight_of_floats(file: File) -> str:
    numbers = np.random.default_rng(0).normal(size=12)
    file.initializers.append(helper.make_tensor("floats", onnx.TensorProto.FLOAT8E4M3FN, (3, 4), numbers.tolist()))
    weight = file.node("DequantizeLinear", "floats", file.constant(np.float32(0.5)))
    return file.node("MatMul", file.on_grid("input", 0.05), weight)


def _multiplies_by_one_number_of_more_axes(file: File) -> str:
    return file.node("Mul", file.on_grid("input", 0.05), file.constant(np.full((1, 1, 1, 1, 1), 2, np.float32)))


def _is_the_larger_of_two(file: File) -> str:
    x = file.on_grid("input", 0.05)
    return file.on_grid(file.node("Max", x, file.on_grid(file.node("Neg", x), 0.05)), 0.05)


def test_a_maximum_of_constants_is_one() -> None:
    file = File((3,))
    bias = file.node("Max", file.constant(np.array([1, -2, 0.5], np.float32)), file.constant(np.float32(0)))
    agrees(file.bytes(file.on_grid(file.node("Add", file.on_grid("input", 0.05), bias), 0.0611)), some(3, 3))


@pytest.mark.parametrize("axes", [[2, 3], [1], [-1], [1, 2, 3]])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_sums_over_axes(axes: list[int], keepdims: int) -> None:
    file = File((3, 4, 5))
    y = file.node("ReduceSum", file.on_grid("input", 0.0211, 5), file.constant(np.array(axes)), keepdims=keepdims)
    agrees(file.bytes(file.on_grid(y, 0.0907, 3)), some(4, 3, 4, 5))


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


@pytest.mark.parametrize("kind", [QuantType.QInt8, QuantType.QUInt8])
def test_constants_that_onnx_runtime_quantized_like_activations(kind: QuantType, tmp_path: Path) -> None:
    """At its defaults what is added, multiplied or concatenated gets a zero point, being no weight of a layer."""
    random = np.random.default_rng(5)
    numbers = [random.uniform(low, 2, shape).astype(np.float32) for low, shape in ((-1, 4), (1, 4), (-1, (1, 2, 4)))]
    file = File((5, 6))
    y = file.node("MatMul", "input", file.constant(random.normal(size=(6, 4)).astype(np.float32)))
    y = file.node("Add", file.node("Add", y, file.constant(numbers[0])), file.constant(np.float32(3)))
    y = file.node("Concat", file.node("Mul", y, file.constant(numbers[1])), file.constant(numbers[2]), axis=1)
    inputs = some(11, 5, 6)
    made = statically_quantized(
        file.bytes(y), inputs, tmp_path, per_channel=False, activation_type=kind, weight_type=QuantType.QInt8
    )
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load_from_string(made).graph.initializer}
    assert sum(bool(values.any()) for name, values in stored.items() if "c" in name and "zero_point" in name) >= 2
    agrees(made, inputs, share=0.05)


@pytest.mark.parametrize("symmetric", [True, False])
def test_weights_in_bytes_around_128(symmetric: bool, tmp_path: Path) -> None:
    """Around another number they do not fit int8: refused with the option that ONNX Runtime has for it."""
    file = File((3, 5, 5))
    weights = np.random.default_rng(6).normal(1, 1, size=(4, 3, 3, 3)).astype(np.float32)
    inputs = some(12, 3, 5, 5)
    made = statically_quantized(
        file.bytes(file.node("Conv", "input", file.constant(weights))), inputs, tmp_path,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QUInt8, per_channel=False,
        extra_options={"WeightSymmetric": symmetric},
    )  # fmt: skip
    if symmetric:
        agrees(made, inputs)
        return
    least, most = _ends(made, (4, 3, 3, 3))
    assert most - least == 255
    with pytest.raises(UserError, match=rf"does not fit int8 \({least}..{most}\).*`WeightSymmetric`"):
        lower(made)


def _ends(made: bytes, shape: tuple[int, ...]) -> tuple[int, int]:
    """The smallest and the largest integer of the weight, less its zero point."""
    model = onnx.load_from_string(made)
    stored = {tensor.name: numpy_helper.to_array(tensor).astype(int) for tensor in model.graph.initializer}
    (weight,) = (name for name, values in stored.items() if values.shape == shape)
    zero = next(node.input[2] for node in model.graph.node if node.input[0] == weight)
    return int((stored[weight] - stored[zero]).min()), int((stored[weight] - stored[zero]).max())


def test_unsigned_activations_are_the_same_graph_shifted_by_128() -> None:
    graphs = []
    for dtype, offset in ((np.int8, 0), (np.uint8, 128)):
        file = File((3, 5, 5))
        weight = file.weight(np.random.default_rng(0).integers(-127, 128, (4, 3, 3, 3)), np.full(4, 0.0103))
        y = file.node("Conv", file.on_grid("input", 0.0211, offset + 5, dtype), weight)
        graphs.append(agrees(file.bytes(file.on_grid(y, 0.0507, offset - 3, dtype)), some(9, 3, 5, 5)))
    inputs = some(9, 3, 5, 5)
    assert np.array_equal(*(reference.run(graph, graph.quantized(inputs)) for graph in graphs))


def test_layer_norm_and_softmax() -> None:
    random = np.random.default_rng(0)
    for width in (1, 7, 64):
        file = File((3, width))
        x = file.on_grid("input", 0.0211, -17)
        weight, bias = (file.constant(random.normal(0, 1, width).astype(np.float32)) for _ in range(2))
        normal = file.on_grid(file.node("LayerNormalization", x, weight, bias, axis=-1), 0.0307, 5)
        graph = agrees(
            file.bytes(file.on_grid(file.node("Softmax", normal, axis=-1), 1 / 256, -128)), some(8, 3, width)
        )
        assert [type(operator).__name__ for operator in graph.operators] == ["LayerNorm", "Softmax"]


@pytest.mark.parametrize(("weight", "bias"), [((1, 1, 7), (1, 7)), ((7,), ()), ((1,), (7,))])
def test_a_layer_norms_weight_may_have_more_axes_or_one_number(weight: tuple[int, ...], bias: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    file = File((3, 7))
    given = (file.constant(random.normal(0, 1, shape).astype(np.float32)) for shape in (weight, bias))
    normal = file.node("LayerNormalization", file.on_grid("input", 0.0211, -17), *given, axis=-1)
    agrees(file.bytes(file.on_grid(normal, 0.0307, 5)), some(8, 3, 7))


def test_a_layer_norms_weight_along_another_axis_is_refused() -> None:
    file = File((3, 7))
    weight = file.constant(np.ones((3, 1), np.float32))
    normal = file.node("LayerNormalization", file.on_grid("input", 0.0211, -17), weight, axis=-1)
    with pytest.raises(UserError, match=r"\(LayerNormalization\): its weight or bias of shape \(3, 1\) is not along"):
        lower(file.bytes(file.on_grid(normal, 0.0307, 5)))


def test_a_batchnorm_that_takes_statistics_is_refused() -> None:
    file = File((4, 5))
    given = [file.constant(np.ones(4, np.float32)) for _ in range(4)]
    y = file.node("BatchNormalization", file.on_grid("input", 0.0211), *given, training_mode=1)
    with pytest.raises(UserError, match="takes statistics of the batch; export the network in evaluation mode"):
        lower(file.bytes(file.on_grid(y, 0.0307)))


def test_equal_numbers_are_normalized_to_the_bias() -> None:
    file = File((2, 6))
    ones, bias = file.constant(np.ones(6, np.float32)), file.constant(np.arange(6, dtype=np.float32))
    normal = file.node("LayerNormalization", file.on_grid("input", 0.0211), ones, bias)
    graph = lower(file.bytes(file.on_grid(normal, 0.1)))
    equal = np.full((1, 2, 6), 77, np.int8)
    assert np.array_equal(reference.run(graph, equal)[0, 0], 10 * np.arange(6))


def test_constants_with_several_numbers_and_batchnorm_that_was_not_folded() -> None:
    random = np.random.default_rng(1)
    channels = random.normal(0, 1, (4, 4)).astype(np.float32)
    for shape in ((4, 5, 5), (6, 4)):  # an image: channels first; tokens: channels last
        file = File(shape)
        x = file.on_grid("input", 0.0211, 8)
        spread = (1, 4, 1, 1) if len(shape) == 3 else (4,)
        one, other, each = (file.constant(channels[i].reshape(spread)) for i in range(3))
        place = file.constant(random.normal(0, 1, (1, *shape)).astype(np.float32))
        y = file.on_grid(file.node("Add", file.node("Mul", x, one), other), 0.0407, 3)
        y = file.on_grid(file.node("Relu", file.node("Sub", place, y)), 0.0307, -128)
        y = file.on_grid(file.node("Div", y, each), 0.0907, 3)
        if len(shape) == 3:
            y = file.node("BatchNormalization", y, *(file.constant(channels[i] ** 2) for i in range(4)))
            y = file.on_grid(y, 0.0507)
        graph = agrees(file.bytes(y), some(9, *shape), share=0.02)
        assert {type(operator).__name__ for operator in graph.operators} <= {"Convolution", "Reshape", "Transpose"}


def test_a_number_for_each_channel_of_the_input_image_stays_one() -> None:
    """Right behind the input an image lies in the order of the file."""
    random = np.random.default_rng(3)
    file = File((3, 6, 5))
    factors, mean = (file.constant(random.uniform(0.5, 2, (1, 3, 1, 1)).astype(np.float32)) for _ in range(2))
    scaled = file.node("Mul", file.node("Sub", file.on_grid("input", 0.0211, 8), mean), factors)
    normal = file.node("BatchNormalization", file.on_grid(scaled, 0.0407, 3),
                       *(file.constant(random.uniform(0.5, 2, 3).astype(np.float32)) for _ in range(4)))  # fmt: skip
    kernel = file.weight(random.integers(-127, 128, (4, 3, 3, 3)), np.full(4, 0.0103))
    file_bytes = file.bytes(file.on_grid(file.node("Conv", file.on_grid(normal, 0.0907, 3), kernel), 0.507))
    graph = agrees(file_bytes, some(10, 3, 6, 5), share=0.05)
    layers = [operator for operator in graph.operators if isinstance(operator, Convolution)]
    assert [len(layer.weight) for layer in layers] == [3, 3, 4]
    assert sum(isinstance(operator, Transpose) for operator in graph.operators) == 2  # of the input and the output


def test_functions_of_one_tensor_that_meet_again_are_one_table() -> None:
    file = File((6,))
    x = file.on_grid("input", 0.0401, 11)
    inner = file.node("Erf", file.node("Div", x, file.constant(np.float32(2**0.5))))
    gelu = file.node("Mul", file.node("Mul", x, file.node("Add", inner, file.constant(np.float32(1)))),
                     file.constant(np.float32(0.5)))  # fmt: skip
    y = file.on_grid(gelu, 0.0307, -120)
    y = file.on_grid(file.node("Mul", y, file.node("Sigmoid", y)), 0.0307, -120)
    for operator, *constants in (("Elu",), ("Softplus",), ("Mish",), ("Pow", 2)):
        y = file.on_grid(file.node(operator, y, *(file.constant(np.float32(c)) for c in constants)), 0.0307, -120)
    graph = agrees(file.bytes(y), some(3, 6))
    assert [type(operator).__name__ for operator in graph.operators] == ["Table"] * 6


@pytest.mark.parametrize("shape", [(5, 40), (5, 1)])
@pytest.mark.parametrize("operator", ["BatchNormalization", "PRelu", "Mul"])
def test_a_number_for_each_channel_of_a_sequence_is_stored_once(
    operator: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    file, random = File(shape), np.random.default_rng(0)
    x = file.on_grid("input", 0.0211, 5)
    vectors = [file.constant(random.uniform(0.3, 1.5, 5).astype(np.float32)) for _ in range(4)]
    column = file.constant(random.uniform(0.3, 1.5, (5, 1)).astype(np.float32))
    y = file.node(operator, x, *(vectors if operator == "BatchNormalization" else [column]))
    graph = agrees(file.bytes(file.on_grid(y, 0.0407, 3)), some(2, *shape), share=0.03)
    stored = sum(each.weight.size for each in graph.operators if isinstance(each, Convolution))
    assert stored == 5
    (run,) = natively([graph], tmp_path)
    entering = graph.quantized(some(2, *shape))
    assert np.array_equal(run(entering), reference.run(graph, entering))


@pytest.mark.parametrize("place", ["before", "after", "both"])
def test_a_class_token_is_stored_once(place: str, tmp_path: Path) -> None:
    file, random = File((9, 6)), np.random.default_rng(0)
    token, tail = (file.constant(random.normal(size=(1, rows, 6)).astype(np.float32)) for rows in (1, 2))
    x = file.on_grid("input", 0.0211, 5)
    parts = {"before": (token, x), "after": (x, tail), "both": (token, x, tail)}[place]
    graph = agrees(file.bytes(file.on_grid(file.node("Concat", *parts, axis=1), 0.0307, -9)), some(3, 9, 6), share=0.01)
    stored = sum(each.weight.size for each in graph.operators if isinstance(each, Convolution))
    assert stored == {"before": 6, "after": 12, "both": 18}[place]
    (run,) = natively([graph], tmp_path)
    entering = graph.quantized(some(3, 9, 6))
    assert np.array_equal(run(entering), reference.run(graph, entering))


def test_constants_that_are_longer_than_what_they_stand_beside() -> None:
    file = File((2, 6))
    token = file.constant(np.random.default_rng(0).normal(size=(1, 3, 6)).astype(np.float32))
    y = file.node("Concat", file.on_grid("input", 0.0211, 5), token, axis=1)
    agrees(file.bytes(file.on_grid(y, 0.0307, -9)), some(3, 2, 6), share=0.01)


def test_positions_join_a_class_token() -> None:
    file, random = File((9, 6)), np.random.default_rng(0)
    token, positions = (file.constant(random.normal(size=(1, n, 6)).astype(np.float32)) for n in (1, 10))
    y = file.node("Add", file.node("Concat", token, file.on_grid("input", 0.0211, 5), axis=1), positions)
    agrees(file.bytes(file.on_grid(y, 0.0407, -9)), some(3, 9, 6), share=0.01)


def test_splits_means_maxima_and_constants_beside_a_tensor() -> None:
    random = np.random.default_rng(2)
    file = File((6, 4))
    x = file.on_grid("input", 0.0307, -9)
    file.nodes.append(onnx.helper.make_node("Split", [x], ["left", "right"], "split", axis=2, num_outputs=2))
    token = file.constant(random.normal(0, 1, (1, 1, 2)).astype(np.float32))
    beside = file.on_grid(file.node("Concat", token, "left", token, axis=1), 0.0307, -9)
    mean = file.on_grid(file.node("ReduceMean", beside, file.constant(np.array([1])), keepdims=1), 0.0203, -9)
    last = file.on_grid(file.node("ReduceMean", "right", file.constant(np.array([-1])), keepdims=1), 0.0203, -9)
    most = file.node("ReduceMax", last, file.constant(np.array([1])), keepdims=1)
    scaled = file.on_grid(file.node("Mul", mean, most), 0.0503)
    agrees(file.bytes(scaled), some(4, 6, 4))


def test_windows_of_sequences() -> None:
    file = File((4, 9))
    x = file.on_grid("input", 0.0307, -9)
    pooled = file.on_grid(file.node("AveragePool", x, kernel_shape=[2], strides=[2]), 0.0203, 5)
    agrees(file.bytes(file.node("MaxPool", pooled, kernel_shape=[3], pads=[1, 1])), some(5, 4, 9))


def test_a_product_of_heads_times_a_number_goes_to_softmax() -> None:
    file = File((3, 4, 5))
    x = file.on_grid("input", 0.0211, 8)
    product = file.node("MatMul", x, file.node("Transpose", x, perm=[0, 1, 3, 2]))
    scores = file.on_grid(file.node("Mul", product, file.constant(np.float32(0.45))), 0.0207, -30)
    shares = file.on_grid(file.node("Softmax", scores), 1 / 256, -128)
    agrees(file.bytes(file.on_grid(file.node("MatMul", shares, x), 0.0211)), some(6, 3, 4, 5), share=0.01)


def test_more_than_three_axes_are_moved_as_few() -> None:
    file = File((6, 4, 4))
    parts = file.node("Reshape", file.on_grid("input", 0.0307), file.constant(np.array([1, 2, 3, 4, 4])))
    shuffled = file.node("Transpose", parts, perm=[0, 2, 1, 3, 4])
    graph = agrees(file.bytes(file.node("Reshape", shuffled, file.constant(np.array([1, 6, 4, 4])))), some(7, 6, 4, 4))
    moved = [graph.tensors[operator.output].shape for operator in graph.operators if isinstance(operator, Transpose)]
    assert moved == [(3, 2, 16)]


def test_what_has_no_integer_form_is_refused_with_node_and_operator() -> None:
    file = File((5,))
    spread = file.node("Det", file.on_grid("input", 0.0503))
    with pytest.raises(UserError, match=r"node 'n5' \(Det\): has no integer form"):
        lower(file.bytes(file.on_grid(spread, 0.01)))
    file = File((2, 5, 5))
    floating = file.constant(np.zeros((2, 2, 1, 1), np.float32))
    with pytest.raises(UserError, match=r"node 'n\d+' \(Conv\): its weight 'c1' is not quantized"):
        lower(file.bytes(file.on_grid(file.node("Conv", file.on_grid("input", 0.0503), floating), 0.1)))
    file = File((5,))
    with pytest.raises(UserError, match="the network's output is not quantized"):
        lower(file.bytes(file.node("Sigmoid", file.on_grid("input", 0.0503))))


@pytest.mark.parametrize("shape", [(3,), (1, 3), (1,), ()])
def test_a_bias_has_any_shape_that_onnx_allows(shape: tuple[int, ...]) -> None:
    file = File((5,))
    generator = np.random.default_rng(0)
    weight = file.weight(generator.integers(-127, 128, (5, 3)), np.full(3, 0.0103), axis=1)
    bias = file.constant(generator.standard_normal(shape).astype(np.float32))
    made = file.bytes(file.on_grid(file.node("Gemm", file.on_grid("input", 0.0203), weight, bias), 0.0507))
    (linear,) = agrees(made, some(0, 5)).operators
    assert linear.bias.shape == (3,)


def _folds_into_the_batch(file: File) -> str:
    x = file.on_grid("input", 0.05)
    return file.node("Reshape", x, file.constant(np.array([-1, 4, 3])))


def _adds_an_activation(file: File) -> str:
    x = file.node("Flatten", file.on_grid("input", 0.05))
    weight = file.weight(np.ones((24, 24)), np.array([0.1]))
    return file.node("Gemm", x, weight, x)


def _pads_by_itself(file: File) -> str:
    kernel = file.weight(np.ones((2, 4, 3, 3)), np.full(4, 0.1), axis=1)
    return file.node("ConvTranspose", file.on_grid("input", 0.05), kernel, auto_pad="SAME_UPPER")


def _is_clipped_by_what_it_makes(file: File) -> str:
    x = file.on_grid("input", 0.05)
    return file.node("Clip", x, x)


def _is_read_on_another_grid(file: File) -> str:
    stored = file.node("QuantizeLinear", "input", file.constant(np.float32(0.05)), file.constant(np.int8(0)))
    return file.node("DequantizeLinear", stored, file.constant(np.float32(0.1)), file.constant(np.int8(0)))


def _cuts_integers_that_others_read(file: File) -> str:
    grid = (file.constant(np.float32(0.05)), file.constant(np.int8(0)))
    stored = file.node("QuantizeLinear", "input", *grid)
    cut = file.node("Clip", stored, file.constant(np.int8(0)), file.constant(np.int8(9)))
    return file.node("Add", *(file.node("DequantizeLinear", integers, *grid) for integers in (stored, cut)))


def _cuts_integers_by_relu(file: File) -> str:
    grid = (file.constant(np.float32(0.05)), file.constant(np.int8(0)))
    return file.node("DequantizeLinear", file.node("Relu", file.node("QuantizeLinear", "input", *grid)), *grid)


def _is_quantized_to_two_grids(file: File) -> str:
    return file.node("Add", file.on_grid("input", 0.05), file.on_grid("input", 0.07))


def _has_scales_along_its_inputs(file: File) -> str:
    x = file.node("Flatten", file.on_grid("input", 0.05))
    return file.node("MatMul", x, file.weight(np.ones((24, 24)), np.linspace(0.1, 0.2, 24), axis=0))


def _is_a_byte_of_128(file: File) -> str:
    return _has_a_weight_of(file, 128, 0)


def _is_a_byte_far_from_its_zero_point(file: File) -> str:
    return _has_a_weight_of(file, 255, 120)


def _has_a_weight_of(file: File, integer: int, zero_point: int) -> str:
    x = file.node("Flatten", file.on_grid("input", 0.05))
    stored = file.constant(np.full((24, 3), integer, np.uint8))
    weight = file.node("DequantizeLinear", stored, file.constant(np.float32(0.1)), file.constant(np.uint8(zero_point)))
    return file.node("MatMul", x, weight)


def _has_a_weight_in_blocks(file: File) -> str:
    x = file.node("Flatten", file.on_grid("input", 0.05))
    scales = file.constant(np.full((6, 3), 0.1, np.float32))
    stored = file.constant(np.ones((24, 3), np.int8))
    return file.node("MatMul", x, file.node("DequantizeLinear", stored, scales, axis=0, block_size=4))


def _quantizes_a_weight_in_blocks(file: File) -> str:
    x = file.node("Flatten", file.on_grid("input", 0.05))
    scales = file.constant(np.full((6, 3), 0.1, np.float32))
    numbers = file.constant(np.ones((24, 3), np.float32))
    stored = file.node("QuantizeLinear", numbers, scales, axis=0, block_size=4, output_dtype=onnx.TensorProto.INT8)
    return file.node("MatMul", x, file.node("DequantizeLinear", stored, scales, axis=0, block_size=4))


def _is_quantized_in_blocks(file: File) -> str:
    scales = file.constant(np.full((1, 2, 2, 3), 0.1, np.float32))
    stored = file.node("QuantizeLinear", "input", scales, axis=2, block_size=2, output_dtype=onnx.TensorProto.INT8)
    return file.node("DequantizeLinear", stored, scales, axis=2, block_size=2)


def _repeats_a_tensor(file: File) -> str:
    x = file.node("ReduceMean", file.on_grid("input", 0.05), file.constant(np.array([1])))
    return file.node("Expand", file.on_grid(x, 0.05), file.constant(np.array([1, 2, 4, 3])))


def _adds_far_above_the_grid(file: File) -> str:
    x = file.on_grid("input", 2.0**17)
    return file.node("Add", x, file.on_grid(file.node("Neg", x), 1.0))


def _is_rescaled_far_above_the_grid(file: File) -> str:
    return file.on_grid("input", 2.0**17)


def _concatenates_far_above_the_grid(file: File) -> str:
    x = file.on_grid("input", 2.0**17)
    return file.node("Concat", x, file.on_grid(file.node("Neg", x), 2.0**16), axis=1)


def _multiplies_far_above_the_grid(file: File) -> str:
    x = file.node("Flatten", file.on_grid("input", 2.0**17))
    return file.node("MatMul", x, file.weight(np.ones((24, 24)), np.array([2.0**10])))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_folds_into_the_batch, r"\(Reshape\): moves an axis into the batch or out of it"),
        (_adds_an_activation, r"\(Gemm\): what it adds must be a constant"),
        (_pads_by_itself, r"\(ConvTranspose\): only one and two dimensions with explicit pads"),
        (_is_clipped_by_what_it_makes, r"\(Clip\): its bounds must be constants"),
        (_is_read_on_another_grid, r"\(DequantizeLinear\): its scale and zero point are not those"),
        (_cuts_integers_that_others_read, r"\(Clip\): cuts integers that others read"),
        (_cuts_integers_by_relu, r"\(Relu\): cuts integers"),
        (_is_quantized_to_two_grids, r"\(QuantizeLinear\): the network's input is quantized before, to another grid"),
        (_has_scales_along_its_inputs, r"\(MatMul\): its weight has scales along axis 0, not along its outputs"),
        (_is_a_byte_of_128, r"\(MatMul\): its weight does not fit int8"),
        (_is_a_byte_far_from_its_zero_point, r"\(MatMul\): its weight does not fit int8"),
        (_has_a_weight_in_blocks, r"node 'n\d+' \(DequantizeLinear\): quantized in blocks \(block_size 4\)"),
        (_quantizes_a_weight_in_blocks, r"node 'n\d+' \(QuantizeLinear\): quantized in blocks \(block_size 4\)"),
        (_is_quantized_in_blocks, r"node 'n\d+' \(QuantizeLinear\): quantized in blocks \(block_size 2\)"),
        (_multiplies_rows_alone, r"\(Gemm\): of two tensors only MatMul, each with rows and columns"),
        (_has_a_weight_of_floats, r"\(DequantizeLinear\): its input is of type float8_e4m3fn"),
        (_multiplies_by_one_number_of_more_axes, r"\(Mul\): its constant of 5 axes makes more of them"),
        (_is_the_larger_of_two, r"\(Max\): only of one tensor and a number"),
        (_repeats_a_tensor, r"\(Expand\): repeats a tensor; let the sum or elementwise product behind it do so"),
        (_adds_far_above_the_grid, r"node 'n\d+' \(Add\): a factor of 2.62144e\+06 between two scales"),
        (_is_rescaled_far_above_the_grid, r"node 'n\d+' \(QuantizeLinear\): a factor of 2.62144e\+06 between"),
        (_concatenates_far_above_the_grid, r"node 'n\d+' \(Concat\): a factor of 2.62144e\+06 between two scales"),
        (_multiplies_far_above_the_grid, r"node 'n\d+' \(MatMul\): a scale of 2.68435e\+09 cannot be written"),
    ],
)
def test_what_would_be_understood_wrongly_is_refused(make: Callable[[File], str], reason: str) -> None:
    file = File((2, 4, 3))
    with pytest.raises(UserError, match=reason):
        lower(of_opset(file.bytes(file.on_grid(make(file), 0.05)), 21))


@pytest.mark.parametrize("examples", [1, 2, 3])
def test_matrices_of_unequal_rank_meet_at_their_last_axes(examples: int) -> None:
    file = File((2, 5, 6))
    x = file.on_grid("input", 0.0211)
    first = file.node("Gather", x, file.constant(np.int64(0)), axis=1)
    y = file.node("MatMul", x, file.node("Transpose", first, perm=[0, 2, 1]))
    agrees(file.bytes(file.on_grid(y, 0.307)), some(1, 2, 5, 6)[:examples])


def test_what_depends_on_constants_and_shapes_alone_is_computed() -> None:
    """As exporters without constant folding leave it."""
    file = File((4, 6))
    x = file.on_grid("input", 0.0211)
    x = file.on_grid(file.node("Mul", x, file.node("Sqrt", file.constant(np.float32(0.5)))), 0.0153)
    batch = file.node("Gather", file.node("Shape", x), file.constant(np.array([0])))
    y = file.node("Reshape", x, file.node("Concat", batch, file.constant(np.array([-1])), axis=0))
    weight = file.weight(np.random.default_rng(0).integers(-127, 128, (24, 3)), np.full(1, 0.0103))
    closed = file.bytes(file.on_grid(file.node("MatMul", y, weight), 0.0907))
    agrees(closed, some(1, 4, 6)[:1])
    opened = onnx.load_from_string(closed)
    opened.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    del opened.graph.value_info[:]
    assert np.array_equal(
        outputs_of(lower(opened.SerializeToString()), some(1, 4, 6)), outputs_of(lower(closed), some(1, 4, 6))
    )


def test_weights_in_another_file_are_refused(tmp_path: Path) -> None:
    file = File((4,))
    weight = file.weight(np.ones((4, 400), np.int64), np.full(1, 0.0103))
    model = onnx.load_from_string(
        file.bytes(file.on_grid(file.node("MatMul", file.on_grid("input", 0.02), weight), 0.05))
    )
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=100)
    with pytest.raises(UserError, match=r"weights lie in 'm\.data'; save all as one file"):
        lower((tmp_path / "m.onnx").read_bytes())


def test_the_type_of_a_grid_without_zero_point_is_said_by_an_attribute() -> None:
    file = File((5,))
    scale = file.constant(np.float32(0.05))
    quantized = file.node("QuantizeLinear", "input", scale, output_dtype=onnx.TensorProto.INT8)
    graph = lower(of_opset(file.bytes(file.node("DequantizeLinear", quantized, scale)), 21))
    assert graph.tensors[graph.input].zero_point == 0


def test_an_input_may_be_moved_before_it_is_quantized() -> None:
    """As ONNX Runtime's quantizer writes a network that begins with Flatten, Transpose or Unsqueeze."""
    weights = np.random.default_rng(0).integers(-127, 128, (24, 5))
    file = File((2, 3, 4))
    x = file.on_grid(file.node("Flatten", "input"), 0.0503)
    weight = file.weight(weights, np.full(5, 0.01), axis=1)
    graph = agrees(file.bytes(file.on_grid(file.node("MatMul", x, weight), 0.1007)), some(1, 2, 3, 4))
    assert graph.tensors[graph.input].shape == (2, 3, 4)

    file = File((5, 6, 3))  # channels last, two readers
    turned = file.node("Transpose", "input", perm=[0, 3, 1, 2])
    kernel = file.weight(np.random.default_rng(1).integers(-127, 128, (4, 3, 1, 1)), np.full(4, 0.013))
    one, other = (file.node("Conv", file.on_grid(turned, 0.0503), kernel) for _ in range(2))
    total = file.node("Add", file.on_grid(one, 0.0701), file.on_grid(other, 0.0701))
    graph = agrees(file.bytes(file.on_grid(total, 0.1303)), some(2, 5, 6, 3))
    assert len({operator.output for operator in graph.operators}) == len(graph.operators)


def test_scales_and_zero_points_may_have_one_axis() -> None:
    file = File((6,))
    grid = (file.constant(np.array([0.0503], np.float32)), file.constant(np.array([3], np.int8)))
    x = file.node("DequantizeLinear", file.node("QuantizeLinear", "input", *grid), *grid)
    cut = file.node("Clip", x, file.constant(np.array([-1.0], np.float32)), "")
    graph = agrees(file.bytes(file.on_grid(cut, 0.03)), some(3, 6))
    assert graph.tensors[graph.input].zero_point == 3


def test_weights_that_the_file_itself_quantizes() -> None:
    """As PyTorch writes fake-quantized weights, and 7 bits of activations: a Clip of the integers."""
    file = File((3, 4, 4))
    numbers = np.random.default_rng(4).standard_normal((5, 3, 3, 3)).astype(np.float32)
    grid = (
        file.constant((abs(numbers).reshape(5, -1).max(1) / 127).astype(np.float32)),
        file.constant(np.zeros(5, np.int8)),
    )
    stored = file.node("QuantizeLinear", file.constant(numbers), *grid, axis=0)
    weight = file.node("DequantizeLinear", stored, *grid, axis=0)
    made = file.node("Conv", file.on_grid("input", 0.0303), weight, pads=[1] * 4)
    to = (file.constant(np.float32(0.0501)), file.constant(np.uint8(64)))
    integers = file.node("QuantizeLinear", made, *to)
    bounds = (file.node("Constant", value=numpy_helper.from_array(np.uint8(value))) for value in (0, 127))
    seven = file.node("Clip", integers, *bounds)
    graph = agrees(file.bytes(file.node("DequantizeLinear", seven, *to)), some(5, 3, 4, 4))
    assert (graph.tensors[graph.output].low, graph.tensors[graph.output].high) == (-128, -1)


@pytest.mark.parametrize("by", ["initializer", "QuantizeLinear"])
def test_weights_whose_integers_are_cut(by: str) -> None:
    """As PyTorch writes a fake quantization of narrow range."""
    file = File((3, 4, 4))
    random = np.random.default_rng(4)
    grid = (file.constant(np.full(5, 0.0103, np.float32)), file.constant(np.zeros(5, np.int8)))
    if by == "initializer":
        stored = file.constant(random.integers(-128, 128, (5, 3, 3, 3)).astype(np.int8))
    else:
        numbers = file.constant(random.normal(0, 1, (5, 3, 3, 3)).astype(np.float32))
        stored = file.node("QuantizeLinear", numbers, *grid, axis=0)
    cut = file.node("Clip", stored, *(file.constant(np.int8(bound)) for bound in (-100, 90)))
    weight = file.node("DequantizeLinear", cut, *grid, axis=0)
    y = file.node("Conv", file.on_grid("input", 0.0303), weight, pads=[1] * 4)
    (_, layer, *_) = agrees(file.bytes(file.on_grid(y, 0.0501)), some(5, 3, 4, 4)).operators
    assert isinstance(layer, Convolution)
    assert (layer.weight.min(), layer.weight.max()) == (-100, 90)


def _softmax(shape: tuple[int, ...], opset: int, **attributes: int) -> bytes:
    file = File(shape)
    made = file.bytes(file.on_grid(file.node("Softmax", file.on_grid("input", 0.0211), **attributes), 1 / 256, -128))
    return of_opset(made, opset)


@pytest.mark.parametrize(("shape", "axis"), [((7,), None), ((1, 7), None), ((1, 7), 1), ((3, 7), 2), ((3, 7), -1)])
def test_softmax_before_opset_13_where_its_row_is_the_last_axis(shape: tuple[int, ...], axis: int | None) -> None:
    agrees(_softmax(shape, 11, **({} if axis is None else {"axis": axis})), some(3, *shape))


@pytest.mark.parametrize("axis", [1, -3])
@pytest.mark.parametrize(("shape", "opset"), [((7, 1, 1), 13), ((5, 4, 3), 18)])
def test_softmax_over_the_channels_of_images(shape: tuple[int, ...], opset: int, axis: int) -> None:
    agrees(_softmax(shape, opset, axis=axis), some(3, *shape))


def test_softmax_before_opset_13_over_channels_of_one_pixel() -> None:
    agrees(_softmax((7, 1, 1), 11), some(3, 7, 1, 1))
    with pytest.raises(UserError, match="only along the last axis"):
        lower(_softmax((5, 4, 3), 11))


def test_what_channels_share_goes_on_as_an_image() -> None:
    """Attention over channels, as a head of classes for each pixel has it, between two convolutions."""
    file = File((3, 5, 4))
    kernels = (file.weight(np.random.default_rng(n).integers(-9, 9, (3, 3, 3, 3)), np.full(3, 0.1)) for n in range(2))
    logits = file.on_grid(file.node("Conv", file.on_grid("input", 0.0211), next(kernels), pads=[1] * 4), 0.0507)
    shares = file.on_grid(file.node("Softmax", logits, axis=1), 1 / 256, -128)
    graph = agrees(file.bytes(file.on_grid(file.node("Conv", shares, next(kernels), pads=[1] * 4), 0.0203)),
                   some(1, 3, 5, 4), steps=2)  # fmt: skip
    kinds = [type(operator).__name__ for operator in graph.operators]
    assert kinds == ["Transpose", "Convolution", "Softmax", "Convolution", "Transpose"]


@pytest.mark.parametrize(("shape", "axis"), [((3, 7), None), ((3, 7), 1), ((3, 7), -2), ((7, 1), None), ((7,), 0)])
def test_softmax_before_opset_13_over_several_axes_is_refused(shape: tuple[int, ...], axis: int | None) -> None:
    with pytest.raises(UserError, match=r"node 'n\d+' \(Softmax\): only along the last axis"):
        lower(_softmax(shape, 11, **({} if axis is None else {"axis": axis})))


def test_an_input_without_fixed_shape_is_refused() -> None:
    file = File((3, 8, 8))
    kernel = file.weight(np.ones((4, 3, 3, 3)), np.full(4, 0.1))
    model = onnx.load_from_string(file.bytes(file.on_grid(file.node("Conv", file.on_grid("input", 0.05), kernel), 0.1)))
    batch, _, height, width = model.graph.input[0].type.tensor_type.shape.dim
    batch.dim_param = "batch"
    lower(model.SerializeToString())
    height.dim_param, width.dim_param = "height", "width"
    del model.graph.value_info[:]
    with pytest.raises(UserError, match=r"input 'input' has the shape \(batch, 3, height, width\); export the network"):
        lower(model.SerializeToString())


def test_constants_may_be_nodes() -> None:
    file = File((5,))
    bounds = (file.node("Constant", value_float=value) for value in (0.0, 6.0))
    agrees(file.bytes(file.on_grid(file.node("Clip", file.on_grid("input", 0.0503), *bounds), 0.0303)), some(6, 5))


def test_every_tensor_behind_a_reshape_of_a_sum_that_waits_is_known() -> None:
    file = File((4, 9))
    means = file.node("ReduceMean", file.on_grid("input", 0.03), file.constant(np.array([2])), keepdims=1)
    one = file.bytes(file.on_grid(file.node("Flatten", means), 0.0201))
    file = File((4, 3, 3))
    factors = file.constant(np.linspace(0.5, 2.0, 4).astype(np.float32).reshape(1, 4, 1, 1))
    scaled = file.node("Mul", file.on_grid("input", 0.03), factors)
    other = file.bytes(file.on_grid(file.node("Flatten", scaled), 0.0201))
    for onnx_file, shape in ((one, (4, 9)), (other, (4, 3, 3))):
        graph = agrees(onnx_file, some(7, *shape))
        assert all(
            name in graph.tensors for operator in graph.operators for name in (*operator.inputs, operator.output)
        )


def test_a_value_that_is_quantized_for_each_of_its_readers_is_computed_once() -> None:
    file = File((3, 4, 4))
    kernel = file.weight(np.random.default_rng(8).integers(-127, 128, (4, 3, 1, 1)), np.full(4, 0.013))
    made = file.node("Conv", file.on_grid("input", 0.0503), kernel)
    again = file.node("Conv", file.on_grid("input", 0.0503), kernel)
    total = file.node("Add", file.on_grid(made, 0.0701), file.on_grid(made, 0.0701))
    total = file.node("Add", file.on_grid(total, 0.1303), file.on_grid(again, 0.0701))
    graph = agrees(file.bytes(file.on_grid(total, 0.1503)), some(8, 3, 4, 4))
    assert sum(isinstance(operator, Convolution) for operator in graph.operators) == 2


def test_initializers_among_the_inputs_are_none_and_a_second_input_is_told() -> None:
    file = File((5,))
    onnx_file = onnx.load_from_string(file.bytes(file.on_grid(file.node("Relu", file.on_grid("input", 0.05)), 0.03)))
    for constant in onnx_file.graph.initializer:
        onnx_file.graph.input.append(helper.make_tensor_value_info(constant.name, constant.data_type, constant.dims))
    assert lower(onnx_file.SerializeToString()).input
    onnx_file.graph.input.append(helper.make_tensor_value_info("other", onnx.TensorProto.FLOAT, [1, 5]))
    with pytest.raises(UserError, match="has 2 inputs and 1 outputs"):
        lower(onnx_file.SerializeToString())
