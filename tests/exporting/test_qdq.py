"""Quantized networks as ONNX: integers in the file, and ONNX Runtime's outputs are the simulation's."""

from __future__ import annotations

import copy
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

from compression.odd_networks import ODD
from compression.zoo import DIGIT, SMALL, exported, zoo
from pocketpipe.compression.quantization import QuantizationStep
from pocketpipe.compression.weights import lay_on
from pocketpipe.errors import UserError
from pocketpipe.exporting.cost import cost_of
from pocketpipe.exporting.onnx import ExportCheck, check_export, export_onnx
from pocketpipe.plan import CompressionPlan
from pocketpipe.task import Preprocessing, Split


def _quantized(network: nn.Module, shape: tuple[int, ...], **options: Any) -> nn.Module:
    task: Any = SimpleNamespace(input_shape=shape, preprocessing=Preprocessing())
    step = QuantizationStep(**{"ranges": "minmax", **options})
    quantized, _ = CompressionPlan((step,)).carry_out(network, task, Split("noise", _inputs(shape), np.zeros(32)))
    return quantized.eval()


def _inputs(shape: tuple[int, ...], count: int = 32) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, *shape)).astype(np.float32)


@cache
def _exported(name: str, shape: tuple[int, ...], **options: Any) -> tuple[nn.Module, bytes]:
    quantized = _quantized(zoo(name, shape), shape, **options)
    return quantized, export_onnx(quantized, shape)


def _initializers(data: bytes) -> dict[str, TensorProto]:
    return {tensor.name: tensor for tensor in onnx.load_from_string(data).graph.initializer}


THREE_ROWS = (3, 8)
CASES: list[tuple[str, tuple[int, ...], dict[str, Any]]] = [
    ("resnet8", DIGIT, {}),
    ("resnet8", DIGIT, {"weight_bits": 3, "activation_bits": 4}),
    ("lenet", DIGIT, {"weight_bits": 4}),
    ("gru", THREE_ROWS, {}),
]


@pytest.mark.parametrize(("name", "shape", "options"), CASES)
def test_onnx_runtime_computes_what_the_simulation_does(
    name: str, shape: tuple[int, ...], options: dict[str, Any]
) -> None:
    """But for a few outputs where a sum lies on the border between two integers."""
    quantized, data = _exported(name, shape, **options)
    onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
    check = check_export(data, quantized, _inputs(shape))
    assert check.equal_share >= 0.97
    assert (check.outputs.argmax(1) == check.expected.argmax(1)).mean() >= 0.96


@pytest.mark.parametrize("name", ["attention", "grouped"])
def test_other_networks_as_well(name: str) -> None:
    factory, shape = ODD[name]
    torch.manual_seed(0)
    quantized = _quantized(factory().eval(), shape)
    assert check_export(export_onnx(quantized, shape), quantized, _inputs(shape)).equal_share >= 0.9


def test_a_batchnorm_without_a_bias_is_folded_as_well() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(5, bias=False)
    network = nn.Sequential(nn.Conv2d(2, 5, 3), norm, nn.Flatten(), nn.Linear(80, 10)).eval()
    norm.running_mean = torch.linspace(-1, 1, 5)
    quantized = _quantized(network, (2, 6, 6))
    assert check_export(export_onnx(quantized, (2, 6, 6)), quantized, _inputs((2, 6, 6))).equal_share >= 0.97


def test_weights_and_biases_are_integers_under_their_own_names() -> None:
    stored = _initializers(_exported("resnet8", DIGIT)[1])
    assert stored["layer1.0.conv1.weight"].data_type == TensorProto.INT8
    assert stored["layer1.0.conv1.bias"].data_type == TensorProto.INT32, "that of its BatchNorm"
    assert stored["linear.bias"].data_type == TensorProto.INT32
    floats = [tensor for tensor in stored.values() if tensor.data_type == TensorProto.FLOAT]
    assert all(len(tensor.dims) <= 1 for tensor in floats), "steps"
    assert not any("quantizers." in name or "parametrizations" in name for name in stored)


def test_every_operator_reads_and_makes_what_is_quantized() -> None:
    graph = onnx.load_from_string(_exported("resnet8", DIGIT)[1]).graph
    made_by = {node.output[0]: node.op_type for node in graph.node}
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm", "Add", "ReduceMean"):
            tensors = [name for name in node.input if name in made_by]
            assert {made_by[name] for name in tensors} <= {"DequantizeLinear", "Slice", "Pad"}
    assert made_by["output"] == "DequantizeLinear"
    assert "BatchNormalization" not in made_by.values()
    assert {"input_2", "layer1_0_add", "mean"} <= set(made_by), "tensors are named as their quantizers"


def test_an_8_bit_resnet20_is_3_7_times_smaller() -> None:
    dense = exported("resnet20", SMALL)
    _, data = _exported("resnet20", SMALL, examples=8)
    assert len(dense) / len(data) >= 3.7


def test_four_bits_are_stored_two_a_byte() -> None:
    quantized, data = _exported("resnet8", DIGIT, weight_bits=3, activation_bits=4)
    stored = _initializers(data)
    weight = stored["layer3.0.conv2.weight"]
    assert weight.data_type == TensorProto.INT4
    assert len(weight.raw_data) == 64 * 64 * 9 / 2
    values = numpy_helper.to_array(weight).astype(int)
    assert values.min() >= -3
    assert values.max() <= 3
    assert stored["conv1.weight"].data_type == TensorProto.INT8, "the first layer has eight"
    own = quantized.get_submodule("layer3.0.conv2").parametrizations.weight
    integers = (own[0](own.original) / own[0].step(4)).round().int().detach().numpy()
    signs = np.sign(quantized.get_submodule("layer3.0.bn2").weight.detach().numpy()).astype(int)
    np.testing.assert_array_equal(values, integers * signs[:, None, None, None])


def test_integers_count_as_parameters_and_macs_as_before() -> None:
    dense = cost_of(exported("resnet8", DIGIT), "dense")
    quantized = cost_of(_exported("resnet8", DIGIT)[1], "quantized")
    assert quantized.macs == dense.macs
    assert quantized.parameters == dense.parameters, "steps and zero points are none"


def test_the_same_network_gives_the_same_bytes() -> None:
    quantized, data = _exported("resnet8", DIGIT)
    assert export_onnx(copy.deepcopy(quantized), DIGIT) == data


def test_the_output_can_be_the_last_layers_sum() -> None:
    quantized = _quantized(zoo("lenet", DIGIT), DIGIT, output="float")
    data = export_onnx(quantized, DIGIT)
    last = onnx.load_from_string(data).graph.node[-1]
    assert (last.op_type, last.output[0]) == ("Gemm", "output")
    assert check_export(data, quantized, _inputs(DIGIT)).noise < 0.01


def test_masks_are_zeros_in_the_file() -> None:
    class Half(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return weight * (torch.arange(weight.numel()).view_as(weight) % 2)

    network = copy.deepcopy(zoo("lenet", DIGIT))
    lay_on(network, "fc1", Half())
    stored = _initializers(export_onnx(_quantized(network, DIGIT), DIGIT))
    assert not numpy_helper.to_array(stored["fc1.weight"]).flatten()[::2].any()


def test_a_codebook_of_integers_keeps_them() -> None:
    class Codebook(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("grid_scale", torch.tensor(0.01))

        def forward(self, weight: Tensor) -> Tensor:
            return (weight / 0.05).round().clamp(-2, 2) * 5 * 0.01

    network = copy.deepcopy(zoo("lenet", DIGIT))
    lay_on(network, "fc1", Codebook())
    quantized = _quantized(network, DIGIT)
    data = export_onnx(quantized, DIGIT)
    assert set(np.unique(numpy_helper.to_array(_initializers(data)["fc1.weight"]))) == {-10, -5, 0, 5, 10}
    check_export(data, quantized, _inputs(DIGIT))


def test_a_wrong_file_is_refused() -> None:
    quantized, data = _exported("resnet8", DIGIT)
    other = copy.deepcopy(quantized)
    with torch.no_grad():
        other.get_submodule("conv1").parametrizations.weight.original.neg_()
    with pytest.raises(UserError, match="differs from PyTorch"):
        check_export(data, other, _inputs(DIGIT))


def test_shares_of_equal_outputs_are_counted() -> None:
    expected = np.array([[100.0, 0.0], [0.0, 50.0]])
    check = ExportCheck(expected + np.array([[0.005, 0.02], [0.0, -3.0]]), expected)
    assert check.equal_share == 0.5
    assert check.difference == pytest.approx(3.0)


def test_a_module_under_two_paths_is_stored_once() -> None:
    torch.manual_seed(0)
    again = nn.Conv2d(6, 6, 3, padding=1)
    network = nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.ReLU(), again, nn.ReLU(), again, nn.Flatten(), nn.Linear(96, 4)
    ).eval()
    quantized = _quantized(network, (2, 6, 6))
    assert check_export(export_onnx(quantized, (2, 6, 6)), quantized, _inputs((2, 6, 6))).equal_share >= 0.97


class Bank(nn.Module):
    """Fixed filters, in a buffer, between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(2, 6, 3, padding=1), nn.Linear(54, 4)
        self.register_buffer("kernel", torch.rand(6, 1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 2, 6, 6) -> (N, 4)."""
        kernel: Any = self.kernel
        x = nn.functional.conv2d(self.first(x).relu(), kernel, stride=2, padding=1, groups=6)
        return self.last(x.flatten(1))  # type: ignore[no-any-return]


def test_a_kernel_in_a_buffer_is_quantized_as_a_layers() -> None:
    torch.manual_seed(0)
    quantized = _quantized(Bank().eval(), (2, 6, 6))
    data = export_onnx(quantized, (2, 6, 6))
    assert check_export(data, quantized, _inputs((2, 6, 6))).equal_share >= 0.97
    assert _initializers(data)["kernel"].data_type == TensorProto.INT8
