"""Reconstruction against NumPy's least squares, layer by layer, and what it leaves alone."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compression.zoo import trained_looking
from pocketpipe.compression.channels.following import reconstruct_thinned
from pocketpipe.compression.refitting import RIDGE, fitted
from pocketpipe.compression.slimming import Kept, slim
from pocketpipe.compression.sparsity.mask import Mask
from pocketpipe.compression.tracing import trace
from pocketpipe.compression.weights import lay_on

SHAPE = (2, 6, 6)


def _problem(rows: int = 200) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 7, generator=generator) + 0.5
    return x, torch.randn(rows, 3, generator=generator), torch.randn(3, 7, generator=generator)


def test_it_is_numpys_least_squares_with_a_ridge_around_the_given_weight() -> None:
    x, y, start = (tensor.double().numpy() for tensor in _problem())
    ridge = np.sqrt(RIDGE * np.square(x).sum(0).mean())
    stacked = np.concatenate([x, ridge * np.eye(7)]), np.concatenate([y, ridge * start.T])
    expected = np.linalg.lstsq(*stacked)[0].T
    weight, bias = fitted(*_problem(), with_bias=False)
    np.testing.assert_allclose(weight.numpy(), expected, rtol=1e-6)
    assert not bias.any()


def test_with_a_bias_it_is_least_squares_with_a_column_of_ones() -> None:
    x, y, start = (tensor.double().numpy() for tensor in _problem())
    ridge = np.sqrt(RIDGE * np.square(x - x.mean(0)).sum(0).mean())
    above = np.concatenate([x, np.ones((len(x), 1))], 1)
    below = np.concatenate([ridge * np.eye(7), np.zeros((7, 1))], 1)
    expected = np.linalg.lstsq(np.concatenate([above, below]), np.concatenate([y, ridge * start.T]))[0].T
    weight, bias = fitted(*_problem(), with_bias=True)
    np.testing.assert_allclose(weight.numpy(), expected[:, :7], rtol=1e-6)
    np.testing.assert_allclose(bias.numpy(), expected[:, 7], rtol=1e-6)


@pytest.mark.parametrize("rows", [3, 7, 200])
def test_the_error_is_never_above_that_of_the_given_weight(rows: int) -> None:
    """Also where there are fewer examples than weights."""
    x, y, start = _problem(rows)

    def error(weight: Tensor, bias: Tensor) -> float:
        return float((x.double() @ weight.double().T + bias - y).square().sum())

    assert error(*fitted(x, y, start, with_bias=False)) <= error(start, torch.zeros(3))
    assert error(*fitted(x, y, start, with_bias=True)) <= error(start, (y - x @ start.T).mean(0))


def test_inputs_that_are_all_zero_change_nothing() -> None:
    start = torch.randn(3, 7)
    assert torch.equal(fitted(torch.zeros(5, 7), torch.ones(5, 3), start, with_bias=False)[0], start.double())


class Chain(nn.Module):
    """Convolutions of several forms one after the other, a linear layer after flattening at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.third = nn.Conv2d(8, 6, 2, dilation=2)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.second(self.first(x).relu())).relu()
        return self.head(self.third(x).relu().flatten(1))


def _chain() -> Chain:
    torch.manual_seed(0)
    return trained_looking(Chain())


KEPT: Kept = {"first": (0, 2, 3, 5, 7), "second": (1, 2, 3, 6, 7)}
EXAMPLES = torch.randn(40, *SHAPE, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def test_each_layer_fits_the_whole_output_with_what_those_before_it_have_become() -> None:
    """By hand for a network small enough for all positions: unfold, NumPy, one layer after the other."""
    network = _chain()
    slimmed = slim(network, trace(network, SHAPE), KEPT)
    found = copy.deepcopy(slimmed)
    refitted = reconstruct_thinned(found, network, trace(network, SHAPE), KEPT, EXAMPLES, statistics="kept")
    assert refitted == ("second", "third", "head")

    inner, original = slimmed.first(EXAMPLES).relu(), network.first(EXAMPLES).relu()
    rows = nn.functional.unfold(inner, 3, padding=1, stride=2).movedim(1, 2).flatten(0, 1)
    wanted = network.second(original)[:, list(KEPT["second"])].flatten(2).movedim(1, 2).flatten(0, 1)
    expected = fitted(rows, wanted, slimmed.second.weight.flatten(1), with_bias=False)[0]
    assert torch.allclose(found.second.weight.flatten(1).double(), expected, atol=1e-5)

    inner = slimmed.norm(found.second(inner)).relu()
    rows = nn.functional.unfold(inner, 2, dilation=2).movedim(1, 2).flatten(0, 1)
    wanted = network.third(network.norm(network.second(original)).relu()).flatten(2).movedim(1, 2).flatten(0, 1)
    expected, bias = fitted(rows, wanted, slimmed.third.weight.flatten(1), with_bias=True)
    assert torch.allclose(found.third.weight.flatten(1).double(), expected, atol=1e-5)
    assert torch.allclose(found.third.bias.double(), bias, atol=1e-5)


@torch.no_grad()
def test_batchnorm_that_is_re_estimated_acts_as_it_will() -> None:
    """With new statistics a constant on the output is free; the old ones stay in the module until they are replaced."""
    network = _chain()
    slimmed = slim(network, trace(network, SHAPE), KEPT)
    old = copy.deepcopy(slimmed.norm.state_dict())
    reconstruct_thinned(slimmed, network, trace(network, SHAPE), KEPT, EXAMPLES, statistics="reestimated")
    assert all(torch.equal(old[name], tensor) for name, tensor in slimmed.norm.state_dict().items())
    assert not slimmed.norm.training
    assert slimmed.norm.momentum == 0.1
    inner = slimmed.second(slimmed.first(EXAMPLES).relu())
    wanted = network.second(network.first(EXAMPLES).relu())[:, list(KEPT["second"])]
    centred, target = inner - inner.mean((0, 2, 3), keepdim=True), wanted - wanted.mean((0, 2, 3), keepdim=True)
    plain = slim(network, trace(network, SHAPE), KEPT)
    reconstruct_thinned(plain, network, trace(network, SHAPE), KEPT, EXAMPLES, statistics="kept")
    other = plain.second(plain.first(EXAMPLES).relu())
    assert (centred - target).square().sum() < (other - other.mean((0, 2, 3), keepdim=True) - target).square().sum()


@torch.no_grad()
def test_channels_that_others_can_stand_for_are_not_missed() -> None:
    """The dropped channels are copies of kept ones: the outputs come back, though weights were cut off."""
    network = _chain()
    with torch.no_grad():
        network.first.weight[4:], network.first.bias[4:] = network.first.weight[:4] * 2, network.first.bias[:4] * 2
    kept = {"first": (0, 1, 2, 3)}
    slimmed = slim(network, trace(network, SHAPE), kept)
    wanted = network(EXAMPLES)
    cut = (slimmed(EXAMPLES) - wanted).abs().mean()
    reconstruct_thinned(slimmed, network, trace(network, SHAPE), kept, EXAMPLES, statistics="kept")
    assert (slimmed(EXAMPLES) - wanted).abs().mean() < 0.01 * cut


class Branches(nn.Module):
    """Two branches from one input; only one of them is cut."""

    def __init__(self) -> None:
        super().__init__()
        self.cut, self.reads = nn.Linear(4, 8), nn.Linear(8, 3)
        self.other, self.head = nn.Linear(4, 3), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.reads(self.cut(x).relu()), self.other(x)], 1).relu())


@torch.no_grad()
def test_a_layer_that_reads_whole_groups_makes_up_for_cuts_before_it_and_a_branch_without_cuts_stays() -> None:
    torch.manual_seed(0)
    network = trained_looking(Branches())
    examples = torch.randn(300, 4)
    kept = {"cut": (0, 1, 2)}
    slimmed = slim(network, trace(network, (4,)), kept)
    reconstruct_thinned(slimmed, network, trace(network, (4,)), kept, examples, statistics="kept")
    assert torch.allclose(slimmed.other.weight, network.other.weight, atol=1e-6)
    error = (slimmed(examples) - network(examples)).square().mean()
    slimmed.head.weight.copy_(network.head.weight)
    slimmed.head.bias.copy_(network.head.bias)
    assert error < (slimmed(examples) - network(examples)).square().mean()


class Odd(nn.Module):
    """What reads `first`: depthwise, grouped and bare weights, a layer that runs twice, and one plain layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 8, 1)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.twice = nn.Conv2d(8, 8, 1)
        self.plain = nn.Conv2d(8, 3, 1)
        self.bare = nn.Parameter(torch.randn(3, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        again = self.twice(self.twice(x).relu())
        mixed = self.depthwise(x).mean((2, 3)) + again.mean((2, 3))
        return self.plain(x).mean((2, 3)) + nn.functional.linear(mixed, self.bare)


@torch.no_grad()
def test_what_is_no_plain_product_or_runs_twice_stays_as_it_is() -> None:
    torch.manual_seed(0)
    network = trained_looking(Odd())
    traced = trace(network, SHAPE)
    kept = {group.name: (0, 1, 2, 5, 6) for group in traced.groups if group.slimmable}
    slimmed = slim(network, traced, kept)
    before = {name: tensor.clone() for name, tensor in slimmed.state_dict().items()}
    assert reconstruct_thinned(slimmed, network, traced, kept, EXAMPLES, statistics="kept") == ("plain",)
    changed = {name for name, tensor in slimmed.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"plain.weight", "plain.bias"}


@torch.no_grad()
def test_a_weight_with_a_mask_on_it_stays_as_it_is() -> None:
    network = _chain()
    lay_on(network, "second", Mask(network.second.weight.abs() > 0.1))
    traced = trace(network, SHAPE)
    slimmed = slim(network, traced, KEPT)
    assert reconstruct_thinned(slimmed, network, traced, KEPT, EXAMPLES, statistics="kept") == ("third", "head")


def test_nothing_is_left_behind() -> None:
    network = _chain()
    slimmed = slim(network, trace(network, SHAPE), KEPT)
    reconstruct_thinned(slimmed, network, trace(network, SHAPE), KEPT, EXAMPLES, statistics="reestimated")
    modules = (*network.modules(), *slimmed.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks or module.training for module in modules)
    assert all(parameter.requires_grad for parameter in slimmed.parameters())


def test_with_fewer_rows_than_inputs_it_is_the_same_by_the_smaller_equations() -> None:
    generator = torch.Generator().manual_seed(3)
    x, y, start = (torch.randn(*shape, generator=generator).double() for shape in ((12, 40), (12, 5), (5, 40)))
    better, _ = fitted(x, y, start, with_bias=False)
    ridge = RIDGE * x.square().sum(0).mean()
    stacked = np.vstack([x.numpy(), np.sqrt(float(ridge)) * np.eye(40)])
    wanted = np.vstack([y.numpy(), np.sqrt(float(ridge)) * start.T.numpy()])
    np.testing.assert_allclose(better.T.numpy(), np.linalg.lstsq(stacked, wanted, rcond=None)[0], atol=1e-8)


class Twins(nn.Module):
    """Two layers with one weight behind a thinned one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.same = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.same.weight = self.again.weight
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.same(torch.relu(self.again(torch.relu(self.first(x)))))))


def test_a_weight_that_two_layers_share_stays_as_it_is() -> None:
    network = trained_looking(Twins())
    traced = trace(network, (4,))
    group = next(each for each in traced.groups if "first" in each.members)
    kept = {group.name: tuple(range(group.channels - 2))}
    slimmed = slim(network, traced, kept)
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    assert reconstruct_thinned(slimmed, network, traced, kept, x, statistics="kept") == ("head",)
