"""Least squares on the weights that a mask leaves, against NumPy's, channel by channel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pocketpipe.compression.refitting import RIDGE, fitted
from pocketpipe.compression.sparsity import SparsityStep
from pocketpipe.compression.sparsity.regression import refit
from pocketpipe.compression.weights import weight_of
from pocketpipe.task import Preprocessing, Split, Task
from training.samples import Blobs


class Noise(Blobs):
    input_shape = (4, 6, 6)
    preprocessing = Preprocessing()
    augment = Task.augment


TASK = Noise()
DATA = Split("noise", np.random.default_rng(0).normal(size=(64, 4, 6, 6)).astype(np.float32), np.zeros(64))


def _rows(inputs: int, outputs: int, count: int = 300) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, inputs, generator=generator, dtype=torch.float64) @ torch.randn(
        inputs, inputs, generator=generator, dtype=torch.float64
    )
    weight = torch.randn(outputs, inputs, generator=generator, dtype=torch.float64)
    mask = torch.rand(outputs, inputs, generator=generator) < 0.4
    y = x @ weight.T + 0.1 * torch.randn(count, outputs, generator=generator, dtype=torch.float64) + 2.0
    return x, y, weight, mask


@pytest.mark.parametrize("count", [300, 2])
@pytest.mark.parametrize("with_bias", [False, True])
def test_each_channel_is_numpys_least_squares(with_bias: bool, count: int) -> None:
    """The pull towards the given weights is rows of its own: sqrt(r) w = sqrt(r) w0. With few rows, too."""
    x, y, weight, mask = _rows(12, 5, count)
    found, shift = fitted(x, y, weight, with_bias=with_bias, mask=mask)
    centred = x - x.mean(0) if with_bias else x
    pull = np.sqrt(RIDGE * (centred**2).sum(0).mean().item())
    for channel in range(5):
        kept = mask[channel].numpy()
        columns = x.numpy()[:, kept]
        left = columns.shape[1]
        pulling = np.hstack([pull * np.eye(left), np.zeros((left, 1))])
        design = np.vstack([np.hstack([columns, np.ones((count, 1))]), pulling])
        if not with_bias:
            design = design[:, :-1]
        wanted = np.concatenate([y[:, channel], pull * weight[channel].numpy()[kept]])
        expected = np.linalg.lstsq(design, wanted, rcond=None)[0]
        np.testing.assert_allclose(found[channel].numpy()[kept], expected[:left], rtol=1e-6, atol=1e-7)
        assert not found[channel].numpy()[~kept].any()
        if with_bias:
            assert shift[channel].item() == pytest.approx(expected[-1], rel=1e-6)


def test_inputs_that_never_vary_leave_the_weights() -> None:
    weight, mask = torch.randn(3, 4), torch.ones(3, 4, dtype=torch.bool)
    found, shift = fitted(torch.zeros(10, 4), torch.ones(10, 3), weight, with_bias=True, mask=mask)
    assert torch.equal(found, weight.double())
    assert shift.tolist() == [1.0, 1.0, 1.0]


class Chain(nn.Module):
    """Plain, grouped, strided, called twice, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.strided = nn.Conv2d(8, 6, 3, stride=2, padding=1, bias=False)
        self.twice = nn.Conv2d(6, 6, 1)
        self.head = nn.Linear(54, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.grouped(functional.relu(self.first(x))))
        x = functional.relu(self.twice(functional.relu(self.twice(self.strided(x)))))
        return self.head(x.flatten(1))


def test_every_layer_is_nearer_to_its_outputs_than_before_and_zeros_stay() -> None:
    torch.manual_seed(0)
    network = Chain().eval()
    step = SparsityStep(density=0.4).pin(network, TASK, DATA)
    plain, refitted = step.apply(network, TASK), step.apply(network, TASK)
    assert refit(refitted, network, TASK, DATA) == ("first", "strided", "head")
    x = torch.from_numpy(DATA.inputs)
    errors = [(made(x) - network(x)).square().mean().item() for made in (plain, refitted)]
    assert errors[1] < 0.5 * errors[0]
    for layer in ("first", "grouped", "strided", "twice", "head"):
        assert torch.equal(weight_of(plain, layer) == 0, weight_of(refitted, layer) == 0)
    for layer in ("grouped", "twice"):
        assert torch.equal(weight_of(plain, layer), weight_of(refitted, layer))


def test_the_first_layer_is_the_least_squares_solution_on_all_positions() -> None:
    """Its inputs do not depend on other layers: by unfolding, with every position (few enough to take all)."""
    torch.manual_seed(1)
    network = nn.Sequential(nn.Conv2d(4, 3, 3, padding=1, bias=False)).eval()
    step = SparsityStep(density=0.5).pin(network, TASK, DATA)
    refitted = step.apply(network, TASK)
    refit(refitted, network, TASK, DATA)
    x = torch.from_numpy(DATA.inputs)
    columns = functional.unfold(x, 3, padding=1).transpose(1, 2).flatten(0, 1).double()
    outputs = (columns @ network[0].weight.detach().double().flatten(1).T).numpy()
    found = weight_of(refitted, "0").detach().flatten(1).numpy()
    for channel in range(3):
        kept = found[channel] != 0
        best = np.linalg.lstsq(columns.numpy()[:, kept], outputs[:, channel], rcond=None)[0]
        np.testing.assert_allclose(found[channel][kept], best, atol=2e-3)  # the pull moves them a little


class Shared(nn.Module):
    """Two layers with one weight, which read different things."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.head = nn.Linear(144, 12), nn.Linear(12, 12), nn.Linear(12, 4)
        self.middle = nn.Linear(12, 12)
        self.again.weight = self.middle.weight

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.middle(functional.relu(self.first(x.flatten(1)))))
        return self.head(functional.relu(self.again(x)))


def test_a_weight_that_two_layers_share_is_fitted_for_neither() -> None:
    torch.manual_seed(0)
    network = Shared().eval()
    step = SparsityStep(density=0.4).pin(network, TASK, DATA)
    plain, refitted = step.apply(network, TASK), step.apply(network, TASK)
    assert refit(refitted, network, TASK, DATA) == ("first", "head")
    assert torch.equal(weight_of(plain, "again"), weight_of(refitted, "again"))
