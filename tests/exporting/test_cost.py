"""MACs and parameters counted on the ONNX file, against PyTorch's own counter and the network's parameters."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pocketpipe.exporting.cost import cost_of
from pocketpipe.exporting.onnx import export_onnx
from pocketpipe.network import NETWORKS

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
