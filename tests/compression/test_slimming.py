"""A slim network computes what the whole one does with the removed channels at zero; and so does its ONNX file."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

from compression.odd_networks import ODD
from compression.zoo import ALL, DIGIT, ROWS, SMALL, trained_looking, zoo
from pocketpipe.compression.slimming import Kept, masked, slim
from pocketpipe.compression.tracing import Trace, profile_of, trace
from pocketpipe.exporting.cost import cost_of
from pocketpipe.exporting.onnx import export_onnx

QUICK = [("resnet8", DIGIT), ("gru", ROWS), ("lenet", DIGIT), ("resnet8_mlperf_tiny", SMALL)]
PHOTOGRAPHS = [pytest.param(name, SMALL, marks=pytest.mark.slow) for name, shape in ALL if shape == DIGIT]


def _kept(traced: Trace, seed: int) -> Kept:
    chance = random.Random(seed)
    counts = {group.name: chance.randint(1, group.channels) for group in traced.groups if group.slimmable}
    channels = {group.name: group.channels for group in traced.groups}
    return {name: sorted(chance.sample(range(channels[name]), count)) for name, count in counts.items()}


def _odd(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    torch.manual_seed(0)
    factory, shape = ODD[name]
    return trained_looking(factory()), shape


def _assert_slim_is_masked(network: nn.Module, shape: tuple[int, ...], seed: int) -> nn.Module:
    traced = trace(network, shape)
    kept = _kept(traced, seed)
    slimmed = slim(network, traced, kept)
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        found, expected, whole = slimmed(x), masked(network, traced, kept)(x), network(x)
    size = expected.abs().max()
    assert (found - expected).abs().max() <= 1e-5 * size
    assert (whole - expected).abs().max() > 1e-3 * size, "the removed channels do not matter: nothing is tested"
    return slimmed


@pytest.mark.parametrize(("name", "shape"), [*ALL, *PHOTOGRAPHS])
def test_every_network_of_the_zoo(name: str, shape: tuple[int, ...]) -> None:
    _assert_slim_is_masked(zoo(name, shape), shape, seed=1)


@pytest.mark.parametrize("name", sorted(ODD))
@pytest.mark.parametrize("seed", [1, 2])
def test_networks_that_couple_channels_in_other_ways(name: str, seed: int) -> None:
    _assert_slim_is_masked(*_odd(name), seed)


@pytest.mark.parametrize(
    ("name", "shape"), [("resnet8", DIGIT), ("gru", ROWS), ("resnet8_mlperf_tiny", SMALL), *PHOTOGRAPHS]
)
def test_the_profile_predicts_the_slim_network(name: str, shape: tuple[int, ...]) -> None:
    network = zoo(name, shape)
    traced = trace(network, shape)
    kept = _kept(traced, seed=3)
    predicted = profile_of(network, shape).cost({group: len(channels) for group, channels in kept.items()})
    found = profile_of(slim(network, traced, kept), shape).cost()
    assert found == predicted


@pytest.mark.parametrize("name", ["dense", "folded", "squeeze", "tied", "own_zeros"])
def test_the_exported_file_costs_what_the_profile_predicts(name: str) -> None:
    network, shape = _odd(name)
    traced = trace(network, shape)
    kept = _kept(traced, seed=4)
    predicted = profile_of(network, shape).cost({group: len(channels) for group, channels in kept.items()})
    measured = cost_of(export_onnx(slim(network, traced, kept), shape), name)
    assert (measured.macs, measured.parameters) == (predicted.macs, predicted.parameters)


@pytest.mark.parametrize(
    ("name", "shape"), [("resnet8", DIGIT), pytest.param("mobilenet_v2", SMALL, marks=pytest.mark.slow)]
)
def test_the_zoos_exported_file_costs_what_the_profile_predicts(name: str, shape: tuple[int, ...]) -> None:
    network = zoo(name, shape)
    traced = trace(network, shape)
    kept = _kept(traced, seed=4)
    predicted = profile_of(network, shape).cost({group: len(channels) for group, channels in kept.items()})
    measured = cost_of(export_onnx(slim(network, traced, kept), shape), name)
    assert measured.macs == predicted.macs
    assert measured.parameters == pytest.approx(predicted.parameters, abs=2)  # constants of ReLU6 and of 1 - z


def test_modules_know_their_new_sizes() -> None:
    network, shape = _odd("grouped")
    traced = trace(network, shape)
    slimmed = slim(network, traced, {"inner": [0, 2, 5], "transposed": [1, 2], "last": [0]})
    twice, transposed, last, head = (slimmed.get_submodule(name) for name in ("twice", "transposed", "last", "head"))
    assert (twice.in_channels, twice.out_channels, twice.groups) == (3, 6, 3)
    assert (transposed.in_channels, transposed.out_channels) == (6, 2)
    assert (last.in_channels, last.out_channels, head.in_features, head.out_features) == (2, 1, 1, 5)
    dense, dense_shape = _odd("dense")
    norms = slim(dense, trace(dense, dense_shape), {"stem": [3, 4]}).norms
    assert [norm.num_features for norm in norms] == [2, 8, 14]


def test_a_slim_network_can_be_slimmed_again() -> None:
    shape = DIGIT
    once = _assert_slim_is_masked(zoo("resnet8", shape), shape, seed=5)
    _assert_slim_is_masked(once, shape, seed=6)


def test_tied_weights_stay_tied() -> None:
    network, shape = _odd("tied")
    slimmed = slim(network, trace(network, shape), {"first": [0, 3, 4]})
    assert slimmed.same.weight is slimmed.again.weight
    assert slimmed.first.weight.shape == (3, 7)
    assert slimmed.again.weight.shape == (3, 3)


def test_the_whole_network_is_not_changed() -> None:
    shape = DIGIT
    network = zoo("resnet8", shape)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    text = repr(network)
    traced = trace(network, shape)
    slim(network, traced, _kept(traced, 1))
    assert repr(network) == text
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_a_slim_network_can_be_trained() -> None:
    shape = DIGIT
    network = zoo("resnet8", shape)
    traced = trace(network, shape)
    slimmed = slim(network, traced, _kept(traced, 2)).train()
    slimmed(torch.randn(4, *shape)).square().sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in slimmed.parameters())
