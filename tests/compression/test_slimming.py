"""A slim network computes what the whole one does with the removed channels at zero; and so does its ONNX file."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from torch import nn

from compression.counting import counted_macs
from compression.odd_networks import ODD, UNCOUNTED
from compression.zoo import ALL, DIGIT, EACH, ROWS, SMALL, odd, zoo
from pocketpipe.compression.slimming import Kept, masked, slim
from pocketpipe.compression.sparsity.mask import Mask
from pocketpipe.compression.tracing import Trace, profile_of, trace
from pocketpipe.compression.weights import laid_on, lay_on, weight_of
from pocketpipe.exporting.cost import cost_of
from pocketpipe.exporting.onnx import export_onnx

PHOTOGRAPHS = [pytest.param(name, SMALL, marks=pytest.mark.slow) for name, shape in ALL if shape == DIGIT]


def _kept(traced: Trace, seed: int) -> Kept:
    """Some channels of every group that can be thinned, at least one less than there are."""
    chance = random.Random(seed)
    counts = {group.name: chance.randint(1, group.channels - 1) for group in traced.groups if group.slimmable}
    channels = {group.name: group.channels for group in traced.groups}
    return {name: sorted(chance.sample(range(channels[name]), count)) for name, count in counts.items()}


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


@pytest.mark.parametrize(("name", "shape"), [*EACH, *PHOTOGRAPHS])
def test_every_network_of_the_zoo(name: str, shape: tuple[int, ...]) -> None:
    _assert_slim_is_masked(zoo(name, shape), shape, seed=1)


@pytest.mark.parametrize("name", sorted(ODD))
@pytest.mark.parametrize("seed", [1, 2])
def test_networks_that_couple_channels_in_other_ways(name: str, seed: int) -> None:
    _assert_slim_is_masked(*odd(name), seed)


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


@pytest.mark.parametrize("name", sorted(set(ODD) - set(UNCOUNTED)))
def test_macs_of_the_slim_network_are_as_predicted(name: str) -> None:
    """Counted by PyTorch while it runs."""
    network, shape = odd(name)
    traced = trace(network, shape)
    kept = _kept(traced, seed=7)
    predicted = traced.profile().cost({group: len(channels) for group, channels in kept.items()})
    assert counted_macs(slim(network, traced, kept), shape) == predicted.macs


EXACT = ["squeeze", "tied"]
CLOSE = ["lstm", "vit_packed"]
MORE = [
    "dense",
    "encoder",
    "folded",
    "mixer",
    "mixer_normalized",
    "own_zeros",
    "resnext",
    "shufflenet_v1",
    "shufflenet_v2",
    "torch_gru",
]
MORE += ["vit_chunked", "vit_torch"]


@pytest.mark.parametrize(
    ("name", "constants"),
    [
        *((name, 0) for name in EXACT),
        *((name, 9) for name in CLOSE),
        *(pytest.param(name, 9, marks=pytest.mark.slow) for name in MORE),
    ],
)
def test_the_exported_file_costs_what_the_profile_predicts(name: str, constants: int) -> None:
    """Some files hold a few constants of the code as well: scales, shapes."""
    network, shape = odd(name)
    traced = trace(network, shape)
    kept = _kept(traced, seed=4)
    predicted = traced.profile().cost({group: len(channels) for group, channels in kept.items()})
    measured = cost_of(export_onnx(slim(network, traced, kept), shape), name)
    assert measured.macs == predicted.macs
    assert predicted.parameters <= measured.parameters <= predicted.parameters + constants


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
    network, shape = odd("grouped")
    traced = trace(network, shape)
    slimmed = slim(network, traced, {"inner": [0, 2, 5], "transposed": [1, 2], "last": [0]})
    twice, transposed, last, head = (slimmed.get_submodule(name) for name in ("twice", "transposed", "last", "head"))
    assert (twice.in_channels, twice.out_channels, twice.groups) == (3, 6, 3)
    assert (transposed.in_channels, transposed.out_channels) == (6, 2)
    assert (last.in_channels, last.out_channels, head.in_features, head.out_features) == (2, 1, 1, 5)
    dense, dense_shape = odd("dense")
    norms = slim(dense, trace(dense, dense_shape), {"stem": [3, 4]}).norms
    assert [norm.num_features for norm in norms] == [2, 8, 14]


def test_numbers_of_groups_and_heads_follow() -> None:
    network, shape = odd("resnext")
    slimmed = slim(network, trace(network, shape), {"stem": [1], "enter.0": [0, 3, 4], "up": [0, 2]})
    grouped, up, each = (slimmed.get_submodule(name) for name in ("grouped.0", "up", "each"))
    assert (grouped.groups, grouped.in_channels, grouped.out_channels) == (3, 6, 6)
    assert (up.groups, up.in_channels, up.out_channels) == (2, 6, 4)
    assert (each.groups, each.in_channels, each.out_channels) == (4, 4, 4)
    assert (slimmed.norm.num_groups, slimmed.norm.num_channels) == (2, 6)
    for name, attribute in (("vit_packed", "heads"), ("vit_explicit", "num_heads")):
        network, shape = odd(name)
        traced = trace(network, shape)
        attention = slim(network, traced, {traced.groups[1].name: [2]}).get_submodule("attention")
        assert getattr(attention, attribute) == 1
        assert attention.head_dim == 4


def test_a_recurrent_module_knows_its_new_weights() -> None:
    network, shape = odd("lstm")
    slimmed = slim(network, trace(network, shape), {"embed": [0, 3], "inside.weight_ih_l0": [1, 2, 5]})
    inside = slimmed.get_submodule("inside")
    assert isinstance(inside, nn.LSTM)
    assert (inside.input_size, inside.hidden_size, slimmed.head.in_features) == (2, 3, 6)
    assert [tuple(weight.shape) for weight in inside.all_weights[2]] == [(12, 6), (12, 3), (12,), (12,)]
    slimmed(torch.randn(1, *shape))
    assert all(flat is weight for flat, weight in zip(inside._flat_weights, inside.parameters(), strict=True))
    kept = [gate * 6 + unit for gate in range(4) for unit in (1, 2, 5)]
    assert torch.equal(inside.weight_hh_l1, network.inside.weight_hh_l1[kept][:, [1, 2, 5]])


@pytest.mark.parametrize("name", ["resnet8", "vit_torch", "lstm", "shufflenet_v2"])
def test_a_slim_network_can_be_slimmed_again(name: str) -> None:
    network, shape = (zoo(name, DIGIT), DIGIT) if name == "resnet8" else odd(name)
    once = _assert_slim_is_masked(network, shape, seed=9)
    _assert_slim_is_masked(once, shape, seed=6)


MASKED = {
    "resnext": ["enter.0", "grouped.0", "up"],
    "vit_torch": ["attention.inside.in_proj_weight", "attention.inside.out_proj", "inner"],
    "lstm": ["inside.weight_ih_l0", "inside.weight_hh_l1_reverse"],
    "tied": ["again"],
}


@pytest.mark.parametrize("name", MASKED)
def test_masks_on_weights_are_cut_with_them(name: str) -> None:
    """The trace is that of the plain network, and what a mask hides stays hidden."""
    plain, shape = odd(name)
    network = copy.deepcopy(plain)
    for layer in MASKED[name]:
        lay_on(network, layer, Mask(torch.rand_like(weight_of(network, layer)) > 0.5))
    traced = trace(network, shape)
    assert traced.profile() == trace(plain, shape).profile()
    slimmed = _assert_slim_is_masked(network, shape, seed=3)
    for layer in MASKED[name]:
        mask = laid_on(slimmed, layer)[0].mask
        assert mask.shape == weight_of(slimmed, layer).shape
        assert (weight_of(slimmed, layer)[~mask] == 0).all()
        assert (~mask).any()


def test_tied_weights_stay_tied() -> None:
    network, shape = odd("tied")
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
