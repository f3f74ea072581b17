"""Networks that take integers, and give them: as ONNX Runtime computes them, fed with the same integers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from integer.qdq import File, as_written
from pocketpipe.errors import UserError
from pocketpipe.integer import reference
from pocketpipe.integer.lowering import lower

TYPES = {np.int8: TensorProto.INT8, np.uint8: TensorProto.UINT8}
OFFSETS = {np.int8: 0, np.uint8: 128}


def _typed(onnx_file: bytes, entering: type, leaving: int) -> bytes:
    model = onnx.load_from_string(onnx_file)
    model.graph.input[0].type.tensor_type.elem_type = TYPES[entering]
    model.graph.output[0].type.tensor_type.elem_type = leaving
    del model.graph.value_info[:]  # of float
    data: bytes = model.SerializeToString()
    return data


def _convolved(file: File, x: str) -> str:
    weight = file.weight(np.random.default_rng(0).integers(-127, 128, (4, 3, 3, 3)), np.full(4, 0.0103))
    return file.node("Conv", x, weight)


def _entering(file: File, source: str, dtype: type, zero_point: int | None = 7) -> str:
    grid = (0.0211,) if zero_point is None else (0.0211, zero_point)
    values = (np.float32(grid[0]), *(np.array(zero, dtype) for zero in grid[1:]))
    return file.node("DequantizeLinear", source, *(file.constant(value) for value in values))


def _leaving(file: File, y: str, dtype: type) -> str:
    return file.node("QuantizeLinear", y, file.constant(np.float32(0.1007)), file.constant(np.array(9, dtype)))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("moved", ["", "before", "behind"])
def test_integers_go_in_and_come_out(dtype: type, moved: str) -> None:
    """As full-integer TFLite files are written by tf2onnx: channels last, dequantized at once."""
    file = File((5, 4, 3) if moved else (3, 5, 4))
    x = file.node("Transpose", "input", perm=[0, 3, 1, 2]) if moved == "before" else "input"
    x = _entering(file, x, dtype)
    x = file.node("Transpose", x, perm=[0, 3, 1, 2]) if moved == "behind" else x
    onnx_file = _typed(file.bytes(_leaving(file, _convolved(file, x), dtype)), dtype, TYPES[dtype])
    ends = np.iinfo(dtype)
    inputs = np.random.default_rng(1).integers(ends.min, ends.max, (8, *file.shape), endpoint=True).astype(dtype)
    graph, offset = lower(onnx_file), OFFSETS[dtype]
    found = reference.run(graph, (inputs.astype(int) - offset).astype(np.int8)).astype(int) + offset
    difference = abs(found - as_written(onnx_file, inputs).astype(int))
    assert difference.max() <= 1
    assert difference.mean() <= 0.01
    entry = graph.tensors[graph.input]
    assert (entry.shape, entry.scale, entry.zero_point) == (file.shape, float(np.float32(0.0211)), 7 - offset)
    real = (inputs.astype(np.float64) - 7) * entry.scale
    assert np.array_equal(graph.quantized(real).astype(int) + offset, inputs)


def test_an_integer_input_without_zero_point_and_with_two_readers() -> None:
    file = File((3, 5, 4))
    parts = (file.on_grid(_convolved(file, _entering(file, "input", np.uint8, None)), 0.3007) for _ in range(2))
    onnx_file = _typed(file.bytes(file.on_grid(file.node("Add", *parts), 0.5003)), np.uint8, TensorProto.FLOAT)
    graph = lower(onnx_file)
    assert graph.tensors[graph.input].zero_point == -128
    inputs = np.random.default_rng(1).integers(0, 256, (8, 3, 5, 4)).astype(np.uint8)
    found = graph.real(reference.run(graph, (inputs.astype(int) - 128).astype(np.int8)))
    assert abs(found - as_written(onnx_file, inputs)).max() < 1.001 * 0.5003


def _on_two_grids(file: File) -> str:
    return file.node("Add", _entering(file, "input", np.uint8, 7), _entering(file, "input", np.uint8, 8))


def _cast_to_another_type(file: File) -> str:
    return _entering(file, file.node("Cast", "input", to=TensorProto.INT8), np.int8)


def _per_channel(file: File) -> str:
    scales, zeros = file.constant(np.full(3, 0.1, np.float32)), file.constant(np.zeros(3, np.uint8))
    return file.node("DequantizeLinear", "input", scales, zeros, axis=1)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_on_two_grids, r"\(DequantizeLinear\): the network's input is quantized before, to another grid"),
        (_cast_to_another_type, r"\(DequantizeLinear\): the network's input is uint8, and int8 here"),
        (_per_channel, r"\(DequantizeLinear\): activations must be quantized per tensor"),
    ],
)
def test_integers_that_would_be_understood_wrongly_are_refused(make: object, reason: str) -> None:
    file = File((3, 5, 4))
    assert callable(make)
    with pytest.raises(UserError, match=reason):
        lower(_typed(file.bytes(file.on_grid(_convolved(file, make(file)), 0.3)), np.uint8, TensorProto.FLOAT))


def test_a_float_output_says_what_tools_call_its_quantization() -> None:
    file = File((3, 5, 4))
    said = (
        r"not quantized: behind what makes 'v\d+', its last layer, .* \(pocketpipe: `output: quantized`; Brevitas: `out"
    )
    with pytest.raises(UserError, match=said):
        lower(file.bytes(_convolved(file, file.on_grid("input", 0.05))))
