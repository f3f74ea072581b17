"""What only moves numbers, and constants that are moved before a layer reads them: against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import Tensor, nn

from exporting.test_qdq import _inputs, _quantized
from integer import qdq
from integer.natively import natively
from integer.qdq import File
from integer.test_lowering import agrees, some
from pocketpipe.errors import UserError
from pocketpipe.exporting.onnx import export_onnx
from pocketpipe.integer import reference
from pocketpipe.integer.graph import Convolution, Linear
from pocketpipe.integer.lowering import lower


def _integers(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(-127, 128, shape)


def _scales(count: int) -> np.ndarray:
    return np.linspace(0.005, 0.015, count)


def test_a_depthwise_weight_as_tf2onnx_writes_it() -> None:
    """(1, height, width, channels) with scales along the channels: transposed, then reshaped."""
    file = File((6, 5, 4))
    stored = file.weight(_integers(1, 3, 3, 6), _scales(6), axis=3)
    turned = file.node("Transpose", stored, perm=[3, 0, 1, 2])
    weight = file.node("Reshape", turned, file.constant(np.array([6, 1, 3, -1])))
    y = file.node("Conv", file.on_grid("input", 0.0211, 5), weight, group=6)
    agrees(file.bytes(file.on_grid(y, 0.0507)), some(1, 6, 5, 4))


def _split_channels(file: File) -> str:
    """Two outputs for each channel: its scale is that of both."""
    stored = file.weight(_integers(3, 18), _scales(3), axis=0)
    return file.node("Reshape", stored, file.constant(np.array([6, 1, 3, 3])))


def _squeezed(file: File) -> str:
    stored = file.node("Unsqueeze", file.weight(_integers(6, 9), _scales(6)), file.constant(np.array([0, 2, 4])))
    squeezed = file.node("Squeeze", stored, file.constant(np.array([0])))
    return file.node("Reshape", squeezed, file.constant(np.array([0, 0, 3, 3])))


def _cut(file: File) -> str:
    stored = file.weight(_integers(9, 1, 5, 3), _scales(9))
    some_of_them = (file.constant(np.array(values)) for values in ([1, 3], [-2, 5], [0, 2], [1, 1]))
    sliced = file.node("Slice", stored, *some_of_them)
    rows = file.node("Gather", sliced, file.constant(np.array([1, 0])), axis=2)
    return file.node("Gather", rows, file.constant(np.array([2, 0, 1, 1, 2, 0])), axis=0)


def _expanded(file: File) -> str:
    stored = file.weight(_integers(6, 1, 1, 3), _scales(6))
    return file.node("Expand", stored, file.constant(np.array([6, 1, 3, 3])))


def _one_of_several(file: File) -> str:
    """All of one channel's scale."""
    stored = file.weight(_integers(4, 6, 1, 3, 3), _scales(4))
    return file.node("Gather", stored, file.constant(np.array(2)), axis=0)


def _per_tensor(file: File) -> str:
    stored = file.node("Flatten", file.weight(_integers(3, 3, 6), _scales(1)), axis=2)
    return file.node("Reshape", stored, file.constant(np.array([6, 1, 3, 3])))


def test_axes_of_an_old_squeeze_count_from_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before opset 13 they are an attribute; a node of ONNX's own may say so by its domain."""
    monkeypatch.setattr(qdq, "OPSET", 12)
    file = File((6,))
    squeezed = file.node("Squeeze", file.weight(_integers(5, 6, 1, 1), np.array(0.0103)), axes=[-2, -1])
    y = file.node("Gemm", file.on_grid("input", 0.0211, 5), squeezed, transB=1)
    model = onnx.load_from_string(file.bytes(file.on_grid(y, 0.0507)))
    for node in model.graph.node:
        for attribute in [each for each in node.attribute if each.name == "axis"]:
            node.attribute.remove(attribute)  # of DequantizeLinear: since opset 13
    agrees(model.SerializeToString(), some(1, 6))
    next(node for node in model.graph.node if node.op_type == "Squeeze").domain = "ai.onnx"
    model.opset_import.append(helper.make_opsetid("ai.onnx", 12))
    assert lower(model.SerializeToString()).operators


def test_what_cannot_be_carried_out_is_refused_with_its_node() -> None:
    file = File((6,))
    cut = file.node("Gather", file.weight(_integers(5, 6), _scales(5)), file.constant(np.array([7])), axis=0)
    y = file.node("Gemm", file.on_grid("input", 0.0211, 5), cut, transB=1)
    with pytest.raises(UserError, match=r"\(Gather.*\): cannot be carried out on its constant"):
        lower(file.bytes(file.on_grid(y, 0.0507)))


@pytest.mark.parametrize("make", [_split_channels, _squeezed, _cut, _expanded, _one_of_several, _per_tensor])
def test_a_weight_that_is_moved(make: Callable[[File], str]) -> None:
    file = File((6, 5, 4))
    y = file.node("Conv", file.on_grid("input", 0.0211, 5), make(file), group=6)
    agrees(file.bytes(file.on_grid(y, 0.0507)), some(1, 6, 5, 4))


def test_axes_of_older_opsets_are_attributes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qdq, "OPSET", 11)
    file = File((6, 5, 4))
    stored = file.constant(_integers(6, 3, 3).astype(np.int8))
    scale, zero = file.constant(np.float32(0.0103)), file.constant(np.int8(0))
    weight = file.node("Unsqueeze", file.node("DequantizeLinear", stored, scale, zero), axes=[1, 4])
    y = file.node("Conv", file.on_grid("input", 0.0211, 5), file.node("Squeeze", weight, axes=[4]), group=6)
    agrees(file.bytes(file.on_grid(y, 0.0507)), some(1, 6, 5, 4))


def test_a_weight_that_is_split() -> None:
    file = File((6, 5, 4))
    x = file.on_grid("input", 0.0211, 5)
    stored = file.weight(_integers(12, 1, 3, 3), _scales(12))
    sizes = file.constant(np.array([6, 6]))
    file.node("Split", stored, sizes)
    file.nodes[-1].output.append("other")
    one, other = (file.node("Conv", x, weight, group=6) for weight in (file.nodes[-1].output[0], "other"))
    total = file.node("Add", file.on_grid(one, 0.0507), file.on_grid(other, 0.0607))
    agrees(file.bytes(file.on_grid(total, 0.0907)), some(1, 6, 5, 4), share=0.01)


def test_scales_that_lie_along_no_axis_any_more_are_refused() -> None:
    file = File((6, 5, 4))
    stored = file.weight(_integers(3, 6, 1, 3), _scales(3))
    weight = file.node("Reshape", stored, file.constant(np.array([2, 3, 3, 3])))
    y = file.node("Conv", file.on_grid("input", 0.0211, 5), weight, group=2)
    with pytest.raises(UserError, match=r"node 'n\d+' \(Reshape\): what it makes has its scales along no one axis"):
        lower(file.bytes(file.on_grid(y, 0.0507)))


@pytest.mark.parametrize(("axis", "along"), [(0, 0), (1, 1), (0, None)], ids=["rows", "columns", "one scale"])
def test_constants_are_joined(axis: int, along: int | None) -> None:
    """A fused projection: two quantized weights side by side."""
    file = File((6,) if axis else (8,))
    random = np.random.default_rng(0)
    shape = (6, 4) if axis else (4, 5)
    parts = [
        file.weight(
            random.integers(-127, 128, shape),
            np.full(1, 0.01)[0] if along is None else random.uniform(0.005, 0.015, shape[along]),
            axis=along or 0,
        )
        for _ in range(2)
    ]
    y = file.node("MatMul", file.on_grid("input", 0.0211, 8), file.node("Concat", *parts, axis=axis))
    if axis == 0 and along == 0:  # scales along what is summed
        with pytest.raises(UserError, match="MatMul"):
            lower(file.bytes(file.on_grid(y, 0.0507)))
        return
    graph = agrees(file.bytes(file.on_grid(y, 0.0507)), some(1, *file.shape))
    assert sum(isinstance(operator, Linear) for operator in graph.operators) == 1


def test_quantized_constants_beside_others_are_refused() -> None:
    file = File((6,))
    parts = file.weight(_integers(6, 4), _scales(1)), file.constant(np.ones((6, 4), np.float32))
    y = file.node("MatMul", file.on_grid("input", 0.0211, 8), file.node("Concat", *parts, axis=1))
    with pytest.raises(UserError, match=r"\(Concat\): joins quantized constants with others; quantize all of them"):
        lower(file.bytes(file.on_grid(y, 0.0507)))


def test_numbers_that_are_looked_up_are_refused() -> None:
    file = File((6,))
    table = file.weight(_integers(9, 6), _scales(1))
    y = file.node("Gather", table, file.node("Cast", file.on_grid("input", 1.0), to=7))
    with pytest.raises(UserError, match=r"node 'n\d+' \(Cast\): cuts real numbers to whole ones; quantize them"):
        lower(file.bytes(file.on_grid(y, 0.0507)))


@pytest.mark.parametrize("scales", [1, 3])
@pytest.mark.parametrize("shape", [(5, 4), (2, 5, 4), (5, 1)])
def test_a_constant_on_the_left_of_a_product(shape: tuple[int, ...], scales: int) -> None:
    file = File(shape)
    matrix = file.weight(_integers(3, 5), _scales(scales))
    y = file.node("MatMul", matrix, file.on_grid("input", 0.0211, 8))
    y = file.on_grid(file.node("Relu", y), 0.0607, -30)
    graph = agrees(file.bytes(y), some(6, *shape))
    assert sum(isinstance(operator, Linear) for operator in graph.operators) == 1


def _in_float(file: File) -> str:
    return file.node("MatMul", file.constant(np.ones((3, 5), np.float32)), file.on_grid("input", 0.0211, 8))


def _along_the_inputs(file: File) -> str:
    return file.node("MatMul", file.weight(_integers(3, 5), _scales(5), axis=1), file.on_grid("input", 0.0211, 8))


def _several_matrices(file: File) -> str:
    return file.node("MatMul", file.weight(_integers(2, 3, 5), _scales(1)), file.on_grid("input", 0.0211, 8))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_in_float, r"\(MatMul\): its weight 'c1' is not quantized"),
        (_along_the_inputs, r"\(MatMul\): its weight has scales along axis 1, not along its outputs"),
        (_several_matrices, r"\(MatMul\): on its left only a constant matrix"),
    ],
)
def test_a_constant_on_the_left_that_is_no_layer_is_refused(make: Callable[[File], str], reason: str) -> None:
    file = File((5, 4))
    with pytest.raises(UserError, match=reason):
        lower(file.bytes(file.on_grid(make(file), 0.05)))


def test_a_bias_that_is_moved() -> None:
    file = File((6, 5, 4))
    stored = file.constant(np.random.default_rng(1).normal(size=(3, 2)).astype(np.float32))
    weight = file.weight(_integers(6, 1, 3, 3), _scales(6))
    bias = file.node("Reshape", stored, file.constant(np.array([-1])))
    y = file.node("Conv", file.on_grid("input", 0.0211, 5), weight, bias, group=6)
    graph = agrees(file.bytes(file.on_grid(y, 0.0507)), some(1, 6, 5, 4), share=0.01)  # the bias is rounded
    assert any(isinstance(operator, Convolution) for operator in graph.operators)


def _gathered(*indices: int, axis: int) -> Callable[[File, str], str]:
    return lambda file, x: file.node("Gather", x, file.constant(np.array(indices)), axis=axis)


def _in_a_square(file: File, x: str) -> str:
    return file.node("Gather", x, file.constant(np.array([[2, -1], [0, 1]])), axis=1)


def _reversed(file: File, x: str) -> str:
    bounds = (file.constant(np.array(values)) for values in ([-1, 3], [-99, 0], [3, 2], [-1, -2]))
    return file.node("Slice", x, *bounds)


def _tiled(file: File, x: str) -> str:
    return file.node("Tile", x, file.constant(np.array([1, 2, 1, 3])))


def _itself_beside(file: File, x: str) -> str:
    return file.node("Concat", x, x, axis=3)


MOVED = {
    "gathered rows": _gathered(3, 4, 0, 1, axis=2), "gathered columns": _gathered(3, 1, 3, axis=3),
    "gathered channels": _gathered(5, 4, 3, 0, 0, axis=1), "one channel": _gathered(3, axis=1),
    "in a square": _in_a_square, "reversed": _reversed, "tiled": _tiled, "beside itself": _itself_beside,
}  # fmt: skip


@pytest.mark.parametrize("case", MOVED)
@pytest.mark.parametrize("image", [False, True], ids=["in the file's order", "channels last"])
def test_numbers_that_are_moved_without_a_quantizer_behind(case: str, image: bool, tmp_path: Path) -> None:
    """Behind a layer, whose result lies channels last, and another one reads it."""
    file = File((6, 5, 4))
    x = file.on_grid("input", 0.0211, 5)
    if image:
        x = file.on_grid(file.node("Conv", x, file.weight(_integers(6, 1, 1, 1), _scales(6)), group=6), 0.0307, 3)
    y = MOVED[case](file, x)
    y = file.on_grid(file.node("Sigmoid", y), 1 / 200, -100)
    graph = agrees(file.bytes(y), some(1, 6, 5, 4), share=0.01)
    entering = graph.quantized(some(2, 6, 5, 4))
    (run,) = natively([graph], tmp_path)
    assert np.array_equal(run(entering), reference.run(graph, entering))


class Between(nn.Module):
    """Numbers that are moved between two layers."""

    def __init__(self, move: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.move, self.second = nn.Conv2d(3, 4, 3, padding=1), move, nn.Conv2d(4, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.move(self.first(x)))


MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "roll": lambda x: torch.roll(x, (-2, 1), (2, 3)),
    "flip": lambda x: x.flip(3),
    "repeat": lambda x: x.repeat(1, 1, 2, 1),
    "index": lambda x: x.index_select(1, torch.tensor([2, 3, 0, 1])),
}


@pytest.mark.parametrize("name", MOVES)
def test_what_moves_between_layers_needs_no_quantizer(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape = (3, 6, 5)
    quantized = _quantized(Between(MOVES[name]).eval(), shape)
    graph = agrees(export_onnx(quantized, shape), _inputs(shape), share=0.01)
    entering = graph.quantized(_inputs(shape))
    (run,) = natively([graph], tmp_path)
    assert np.array_equal(run(entering), reference.run(graph, entering))
