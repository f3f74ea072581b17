"""Networks and examples that no step can work with are told in a line, before any harm is done."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from compression.noise import Noise
from pocketpipe.compression.channels import ChannelsStep
from pocketpipe.compression.codebook import CodebookStep
from pocketpipe.compression.quantization import QuantizationStep
from pocketpipe.compression.sparsity import SparsityStep
from pocketpipe.compression.tracing import profile_of
from pocketpipe.errors import UserError
from pocketpipe.plan import CompressionPlan, Step
from pocketpipe.task import Split

SHAPE = (7,)


class Rows(Noise):
    def __init__(self, shape: tuple[int, ...] = SHAPE) -> None:
        self.input_shape = shape


def _examples(shape: tuple[int, ...]) -> Split:
    return Split("noise", np.random.default_rng(0).random((48, *shape), np.float32), np.zeros(48, np.int64))


TASK, DATA = Rows(), _examples(SHAPE)
STEPS = [
    ChannelsStep(widths={"0": 6, "3": 5}),
    SparsityStep(density=0.5, protocol="lamp"),
    CodebookStep(bits=3),
    CodebookStep(bits=3, grid="int8"),
    QuantizationStep(),
]


def _network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Linear(7, 12, bias=False), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 3)
    return nn.Sequential(*layers).eval()


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named(step: Step, value: float) -> None:
    network = _network()
    with torch.no_grad():
        network.get_parameter("3.weight")[0, 0] = value
    with pytest.raises(UserError, match=r"network: 3\.weight holds NaN or infinity"):
        CompressionPlan((step,)).carry_out(network, TASK, DATA)


@pytest.mark.parametrize("step", STEPS)
def test_networks_of_other_precision_are_told_how_to_become_float32(step: Step) -> None:
    with pytest.raises(UserError, match=r"network: 0\.weight is torch\.float64; .* call network\.float\(\) before"):
        CompressionPlan((step,)).carry_out(_network().double(), TASK, DATA)


@pytest.mark.parametrize("step", [STEPS[0], STEPS[2], QuantizationStep(weight_bits=4)])
def test_examples_that_are_no_numbers_are_told(step: Step) -> None:
    spoiled = copy.deepcopy(DATA)
    spoiled.inputs[3, 2] = np.nan
    with pytest.raises(UserError, match="NaN or infinity"):
        CompressionPlan((step,)).carry_out(_network(), TASK, spoiled)


@pytest.mark.parametrize("step", [STEPS[0], STEPS[2]])
def test_one_example_says_nothing_of_a_variance(step: Step) -> None:
    with pytest.raises(UserError, match="statistics need at least two calibration examples"):
        CompressionPlan((step,)).carry_out(_network(), TASK, DATA.take(np.arange(1), "one"))


@pytest.mark.parametrize("step", [SparsityStep(density=0.1), CodebookStep(bits=3)])
def test_weights_computed_from_several_are_left_alone_and_said_to_be(step: Step) -> None:
    normed = torch.nn.utils.parametrizations.weight_norm(nn.Linear(7, 12))
    network = nn.Sequential(normed, nn.ReLU(), nn.Linear(12, 3)).eval()
    (line,) = step.caveats(network, TASK)
    assert line.startswith(f"{step.kind}: 0 stay as they are: their weights are computed from several")
    assert step.caveats(_network(), TASK) == ()


def test_a_network_that_cannot_be_copied_is_told_why() -> None:
    network = nn.Sequential(torch.nn.utils.weight_norm(nn.Linear(7, 6)), nn.ReLU(), nn.Linear(6, 3))
    network(torch.randn(2, 7)).sum().backward()
    with pytest.raises(UserError, match=r"cannot be copied .*remove_weight_norm"):
        profile_of(network.eval(), SHAPE)


class _Largest(nn.Module):
    """As PointNet takes it."""

    def __init__(self) -> None:
        super().__init__()
        self.points, self.head = nn.Conv1d(4, 8, 1), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.points(x).max(-1).values)


def test_the_values_of_a_maximum_are_quantized_as_its_first_item() -> None:
    shape, plain = (4, 6), _Largest().eval()
    quantized, _ = CompressionPlan((QuantizationStep(),)).carry_out(plain, Rows(shape), _examples(shape))
    x = torch.rand(5, *shape)
    assert (quantized(x) - plain(x)).abs().max() < 0.05 * plain(x).abs().max()
