"""MACs and parameters counted on the ONNX file, against PyTorch's own counter and the network's parameters."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pocketpipe.compression.quantization import QuantizationStep
from pocketpipe.exporting.cost import cost_of
from pocketpipe.exporting.onnx import export_onnx
from pocketpipe.network import NETWORKS
from pocketpipe.plan import CompressionPlan
from pocketpipe.task import TASKS, Split

SHAPES = {"resnet20": (3, 32, 32), "mobilenet_v2": (3, 32, 32), "lenet": (1, 8, 8), "gru": (8, 8)}


@pytest.mark.parametrize("name", SHAPES)
def test_macs_are_half_of_pytorchs_flops(name: str) -> None:
    torch.manual_seed(0)
    network = NETWORKS.resolve(name)(SHAPES[name], 10).eval()
    for parameter in network.parameters():  # zeros would be folded away by the exporter
        torch.nn.init.uniform_(parameter, 0.01, 0.1)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, *SHAPES[name]))
    file = export_onnx(network, SHAPES[name])
    cost = cost_of(file, "net.onnx")
    assert cost.macs == sum(cost.macs_by_layer.values()) == counter.get_total_flops() // 2
    assert cost.file_bytes == len(file)
    assert cost.source == "measured on net.onnx"


def test_parameters_are_those_of_a_network_without_batchnorm() -> None:
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 5, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(180, 7)
    )
    cost = cost_of(export_onnx(network.eval(), (3, 8, 8)), "net.onnx")
    assert cost.parameters == sum(p.numel() for p in network.parameters())
    assert cost.macs == 5 * 6 * 6 * 3 * 9 + 180 * 7


class Multiplied(torch.nn.Module):
    """A transposed convolution in groups, and products of activations in batches."""

    def __init__(self) -> None:
        super().__init__()
        self.up = torch.nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2)
        self.mix = torch.nn.Linear(17, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.up(x)
        scores = (x @ x.transpose(-2, -1)).softmax(-1)
        return self.mix(scores @ x)


def test_transposed_convolutions_and_products_of_activations() -> None:
    network = Multiplied().eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 4, 8, 8))
    cost = cost_of(export_onnx(network, (4, 8, 8)), "net.onnx")
    up, scores, mix = 4 * 8 * 8 * 3 * 9, 6 * 17 * 17 * 17, 6 * 17 * 17 * 5
    assert cost.macs == counter.get_total_flops() // 2 == up + 2 * scores + mix


@pytest.mark.parametrize(("module", "gates"), [(torch.nn.LSTM, 4), (torch.nn.GRU, 3)], ids=["LSTM", "GRU"])
def test_recurrent_operators(module: Callable[..., torch.nn.Module], gates: int) -> None:
    """Every step multiplies by the gates of both directions, for the input and for the state."""

    class Last(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = module(3, 4, batch_first=True, bidirectional=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inside(x)[0][:, -1]

    cost = cost_of(export_onnx(Last().eval(), (5, 3)), "net.onnx")
    assert cost.macs == 5 * 2 * gates * 4 * (3 + 4)


@pytest.mark.parametrize("equation", ["bihd, bjhd -> bhij", "...ihd,...jhd->...hij", "...ihd,...jhd"])
def test_einsum_by_hand(equation: str) -> None:
    from onnx import TensorProto, helper

    node = helper.make_node("Einsum", ["q", "k"], ["scores"], equation=equation)
    shapes = {"q": (1, 5, 3, 4), "k": (1, 7, 3, 4), "scores": (1, 3, 5, 7)}
    values = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()}
    graph = helper.make_graph([node], "products", [values["q"], values["k"]], [values["scores"]])
    file = helper.make_model(graph).SerializeToString()
    assert cost_of(file, "net.onnx").macs == 3 * 5 * 7 * 4


def test_behind_a_group_norm_of_a_newer_opset_nothing_is_left_out() -> None:
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.GroupNorm(2, 8), torch.nn.Conv2d(8, 8, 3), torch.nn.GroupNorm(2, 8),
        torch.nn.Conv2d(8, 4, 3), torch.nn.Flatten(), torch.nn.Linear(16, 5),
    )  # fmt: skip
    task = TASKS.resolve("digits")(Path())
    task.input_shape = (3, 8, 8)
    images = np.random.default_rng(0).random((32, 3, 8, 8)).astype(np.float32)
    data = Split("noise", images, np.zeros(32, np.int64))
    expected = cost_of(export_onnx(network.eval(), (3, 8, 8)), "f").macs
    quantized, _ = CompressionPlan((QuantizationStep(weight_bits=4),)).carry_out(network, task, data)
    assert (
        cost_of(export_onnx(quantized, (3, 8, 8)), "f").macs == expected == 8 * 36 * 27 + 8 * 16 * 72 + 4 * 4 * 72 + 80
    )
