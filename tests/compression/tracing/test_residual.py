"""Which modules can be taken out: against the drawings of the networks, and by running them without."""

from __future__ import annotations

import copy
import random
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from compression.residual_networks import RESIDUAL, slow_but
from compression.zoo import DIGIT, trained_looking, zoo
from pocketpipe.compression.taking_out import emptied, moved_up, put, swapped
from pocketpipe.compression.tracing import profile_of
from pocketpipe.profile import Block, ChannelGroup, NetworkProfile


@cache
def _network(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    factory, shape, _ = RESIDUAL[name]
    torch.manual_seed(0)
    return trained_looking(factory()), shape


def _without(network: nn.Module, names: list[str]) -> nn.Module:
    short = copy.deepcopy(network)
    put(short, emptied(short, names))
    return short


def _first_tensor(args: tuple[object, ...]) -> Tensor:
    return next(value for value in args if isinstance(value, Tensor))


def _alike(one: NetworkProfile, other: NetworkProfile) -> bool:
    """Equal but for the names of products (they count all that come before) and the nodes that reasons tell."""

    def told(profile: NetworkProfile) -> NetworkProfile:
        names = {layer.name: layer.name if layer.weight else layer.operator for layer in profile.layers}
        layers = tuple(layer.model_copy(update={"name": names[layer.name]}) for layer in profile.layers)
        groups = tuple(group.model_copy(update={"reason": bool(group.reason)}) for group in profile.groups)
        blocks = tuple(b.model_copy(update={"layers": tuple(names[n] for n in b.layers)}) for b in profile.blocks)
        return profile.model_copy(update={"layers": layers, "groups": groups, "blocks": blocks})

    return told(one) == told(other)


@pytest.mark.parametrize("name", RESIDUAL)
def test_blocks_are_found_in_the_order_of_the_graph_and_in_runs(name: str) -> None:
    network, shape = _network(name)
    assert profile_of(network, shape).runs == RESIDUAL[name][2]


@pytest.mark.parametrize(
    ("name", "runs"),
    [
        ("resnet56", {"layer1.0": 9, "layer2.1": 8, "layer3.1": 8}),
        ("resnet8", {"layer1.0": 1}),
        ("resnet8_mlperf_tiny", {"stacks.0": 1}),
        ("resnet18", {"layer1.0": 2, "layer2.1": 1, "layer3.1": 1, "layer4.1": 1}),
        pytest.param("resnet50", {"layer1.1": 2, "layer2.1": 3, "layer3.1": 5, "layer4.1": 2}, marks=pytest.mark.slow),
        (
            "mobilenet_v2",
            {"features.3": 1, "features.5": 2, "features.8": 3, "features.12": 2, "features.15": 2},
        ),
        ("mobilenet_v1", {}),
        ("lenet", {}),
    ],
)
def test_runs_of_the_zoo(name: str, runs: dict[str, int]) -> None:
    """All blocks of a stage but the strided one; those of the papers' tables."""
    assert {run[0]: len(run) for run in profile_of(zoo(name, DIGIT), DIGIT).runs} == runs


def test_a_block_knows_its_layers() -> None:
    blocks = profile_of(zoo("mobilenet_v2", DIGIT), DIGIT).blocks
    assert blocks[0].layers == ("features.3.conv.0.0", "features.3.conv.1.0", "features.3.conv.2")
    (first, *_) = profile_of(*_network("pre-activation")).blocks
    norms = tuple(f"blocks.0.norm1.{name}" for name in ("weight", "bias", "running_mean", "running_var"))
    assert first.layers == ("blocks.0.conv1", "blocks.0.conv2", *norms)  # norm2 is folded into conv1


@pytest.mark.parametrize("name", RESIDUAL)
def test_a_network_without_blocks_is_the_one_that_hands_on_their_input(name: str) -> None:
    network, shape = _network(name)
    names = [block.name for block in profile_of(network, shape).blocks]
    x = torch.randn(3, *shape)
    handing_on = copy.deepcopy(network)
    for path in names:
        block = handing_on.get_submodule(path)
        block.forward = lambda *args, **kwargs: _first_tensor((*args, *kwargs.values()))  # type: ignore[method-assign]
    with torch.no_grad():
        expected = handing_on(x)
        assert torch.equal(_without(network, names)(x), expected)
        assert not names or not torch.allclose(network(x), expected)


def test_nothing_added_is_the_same_as_nothing_there() -> None:
    """What a block adds is zero if its last norm's scale and shift are: by the network's own arithmetic."""
    network = copy.deepcopy(zoo("resnet20", DIGIT))
    names = [block.name for block in profile_of(network, DIGIT).blocks]
    x = torch.randn(3, *DIGIT)
    with torch.no_grad():
        without = _without(network, names)(x)
        for path in names:
            network.get_submodule(f"{path}.bn2").weight.zero_()
            network.get_submodule(f"{path}.bn2").bias.zero_()
        assert torch.equal(network(x), without)


@pytest.mark.parametrize(("name", "shape"), slow_but({"resnet20", "resnet18", "resnet8_mlperf_tiny"}))
def test_a_profile_knows_the_network_without_any_of_its_blocks(name: str, shape: tuple[int, ...]) -> None:
    network = zoo(name, shape)
    profile = profile_of(network, shape)
    names = [block.name for block in profile.blocks]
    for seed in range(2 if len(names) > 1 else 1):
        some = random.Random(seed).sample(names, random.Random(seed).randint(min(1, len(names)), len(names)))
        predicted, traced = profile.without(some), profile_of(_without(network, some), shape)
        has_products = any(not layer.weight for layer in profile.layers)  # named by how many come before
        assert _alike(predicted, traced) if has_products else predicted == traced


@pytest.mark.parametrize("name", RESIDUAL)
def test_so_does_the_profile_of_any_other_network(name: str) -> None:
    network, shape = _network(name)
    profile = profile_of(network, shape)
    names = [block.name for block in profile.blocks]
    for some in (names[:1], names[1:]):
        assert _alike(profile.without(some), profile_of(_without(network, some), shape))


def test_a_norm_that_the_last_block_kept_apart_is_counted_though_the_export_folds_it() -> None:
    """Without any block the stem is followed by the norm of the head alone: the prediction stays above."""
    block = copy.deepcopy(_network("pre-activation")[0].blocks[0])
    network = trained_looking(nn.Sequential(nn.Conv2d(3, 6, 1), block, nn.BatchNorm2d(6), nn.Flatten()))
    predicted = profile_of(network, (3, 8, 8)).without(["1"]).cost()
    traced = profile_of(_without(network, ["1"]), (3, 8, 8)).cost()
    assert predicted.macs == traced.macs
    assert predicted.file_bytes - traced.file_bytes == 4 * 4 * 6


def test_groups_are_renamed_as_their_first_layer_goes() -> None:
    groups = tuple(
        ChannelGroup(name=name, channels=4, members=members)
        for name, members in (("a", ("a", "c")), ("a:2", ("a", "b")), ("b", ("b",)), ("a:3", ("a",)))
    )
    blocks = (Block(name="x", layers=("a",)), Block(name="y", layers=("b",), follows="x"))
    profile = NetworkProfile(input_shape=(1,), layers=(), groups=groups, blocks=blocks)
    left = profile.without(["x"])
    assert [(group.name, group.members) for group in left.groups] == [("c", ("c",)), ("b", ("b",)), ("b:2", ("b",))]
    assert left.blocks == (Block(name="y", layers=("b",)),)
    with pytest.raises(KeyError):
        profile.without(["z"])


def test_those_that_stay_move_up() -> None:
    network, shape = _network("layers of a Transformer")
    moved = copy.deepcopy(network)
    put(moved, moved_up(moved, ("layers.0", "layers.1", "layers.2"), ("layers.1",)))
    x = torch.randn(2, *shape)
    with torch.no_grad():
        assert torch.equal(moved(x), _without(network, ["layers.0", "layers.2"])(x))
    assert set(moved.state_dict()) == set(_without(network, ["layers.1", "layers.2"]).state_dict())
    assert profile_of(moved, shape).runs == (("layers.0",),)


def test_a_swap_is_undone_even_if_the_network_fails() -> None:
    network = copy.deepcopy(_network("post-activation")[0])
    block = network.blocks[1]

    def fail() -> None:
        with swapped(network, emptied(network, ["blocks.1"])):
            assert network.blocks[1] is not block
            network(torch.zeros(1, 4, 8, 8))

    with pytest.raises(RuntimeError):
        fail()
    assert network.blocks[1] is block
