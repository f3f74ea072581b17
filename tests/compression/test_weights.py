"""Weights by the layer's name: what lies on them, what is shared, plain copies."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from compression.odd_networks import ODD
from compression.zoo import DIGIT, zoo
from pocketpipe.compression.channels import ChannelsStep
from pocketpipe.compression.group_sparsity import penalty
from pocketpipe.compression.sparsity.mask import Mask
from pocketpipe.compression.tracing import profile_of, trace
from pocketpipe.compression.weights import bare, laid_on, lay_on, original_of, owner, set_weight, weight_of
from pocketpipe.errors import UserError


class Times(nn.Module):
    """Multiplies by a buffer of the weight's shape."""

    def __init__(self, factor: Tensor) -> None:
        super().__init__()
        self.register_buffer("factor", factor)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.factor


class Rounded(nn.Module):
    rounds_only = True

    def forward(self, x: Tensor) -> Tensor:
        return x.round()


def _linear() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), Rounded())


def test_a_weight_is_found_by_its_layer() -> None:
    network = zoo("resnet8", DIGIT)
    assert owner(network, "layer1.0.conv1") == (network.layer1[0].conv1, "weight")
    assert weight_of(network, "linear") is network.linear.weight
    with pytest.raises(UserError, match="layer 'conv9': the network has no such weight"):
        owner(network, "conv9")


def test_what_lies_on_a_weight_stacks_and_the_original_is_trained() -> None:
    network = _linear()
    first = network[0].weight.detach().clone()
    lay_on(network, "0", Times(torch.full((3, 4), 2.0)))
    lay_on(network, "0", Times(torch.full((3, 4), 5.0)))
    assert [float(entry.factor[0, 0]) for entry in laid_on(network, "0")] == [2.0, 5.0]
    assert torch.equal(weight_of(network, "0"), first * 10)
    assert original_of(network, "0") in set(network.parameters())
    set_weight(network, "0", torch.ones(3, 4))
    assert torch.equal(weight_of(network, "0"), torch.full((3, 4), 10.0))


def test_a_plain_copy_leaves_the_network_and_its_copies_as_they_are() -> None:
    """`parametrize.remove_parametrizations` on a copy takes the attribute off the class, and so off the original."""
    network = _linear()
    lay_on(network, "0", Times(torch.tensor([0.0, 1.0, 1.0, 0.0]).expand(3, 4)))
    other, plain = copy.deepcopy(network), bare(network)
    assert type(plain[0]) is nn.Linear
    assert isinstance(plain[1], nn.Identity)
    assert set(plain.state_dict()) == {"0.weight", "0.bias"}
    assert torch.equal(plain[0].weight, network[0].weight)
    assert torch.equal(other[0].weight, network[0].weight)
    assert not torch.signbit(plain[0].weight[plain[0].weight == 0]).any()


def test_a_copy_gets_a_second_parametrized_attribute_without_the_original() -> None:
    attention = nn.MultiheadAttention(4, 2, kdim=6)
    lay_on(attention, "q_proj_weight", Times(torch.ones(4, 4)))
    other = copy.deepcopy(attention)
    lay_on(other, "k_proj_weight", Times(torch.zeros(4, 6)))
    assert not parametrize.is_parametrized(attention, "k_proj_weight")
    assert attention.k_proj_weight.abs().min() > 0
    assert not other.k_proj_weight.any()
    assert torch.equal(other.q_proj_weight, attention.q_proj_weight)


def test_a_shared_weight_stays_shared() -> None:
    factory, shape = ODD["tied"]
    network = factory()
    lay_on(network, "again", Times(torch.eye(10)))
    assert torch.equal(network.same.weight, network.again.weight)
    assert network.same.weight.count_nonzero() == 10
    assert sum(parameter.shape == (10, 10) for parameter in network.parameters()) == 1
    plain = bare(network)
    assert plain.same.weight is plain.again.weight
    x = torch.randn(3, *shape)
    assert torch.equal(plain(x), network(x))


def test_torchs_own_parametrizations_become_plain_too() -> None:
    network = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)))
    plain = bare(network)
    assert type(plain[0]) is nn.Linear
    assert torch.equal(plain[0].weight, network[0].weight)


def test_what_lies_on_weights_is_no_layer_of_the_profile() -> None:
    network = copy.deepcopy(zoo("resnet8", DIGIT))
    for layer in ("conv1", "linear"):
        lay_on(network, layer, Times(torch.ones_like(weight_of(network, layer))))
    assert profile_of(network, DIGIT) == profile_of(zoo("resnet8", DIGIT), DIGIT)


class OnScale(nn.Module):
    """Multiples of a scale that it holds: a tensor of its own, not of the weight's shape."""

    replaces_weight = True

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(0.125))

    def forward(self, weight: Tensor) -> Tensor:
        return (weight / self.scale).round() * self.scale


def test_what_replaces_a_weight_by_tensors_of_its_own_hides_no_layer() -> None:
    plain = zoo("resnet8", DIGIT)
    network = copy.deepcopy(plain)
    for layer in profile_of(plain, DIGIT).layers:
        lay_on(network, layer.name, OnScale())
    assert profile_of(network, DIGIT) == profile_of(plain, DIGIT)
    widths = {group.name: group.channels // 2 for group in profile_of(plain, DIGIT).slimmable}
    channels = {name: tuple(range(width)) for name, width in widths.items()}
    task = type("Task", (), {"input_shape": DIGIT})
    slim = ChannelsStep(widths=widths, channels=channels).apply(network, task)
    weight = weight_of(slim, "layer3.0.conv2")
    assert len(weight) == 32
    assert torch.equal(weight * 8, (weight * 8).round())


class Blurred(nn.Module):
    """A filter that is kept in a buffer, and a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filter", torch.rand(4, 1, 3, 3))
        self.conv, self.head = nn.Conv2d(1, 4, 1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(
            nn.functional.conv2d(self.conv(x), self.filter, groups=len(self.filter)).mean((2, 3))
        )
        return logits


def test_what_is_laid_on_a_weight_in_a_buffer_lies_there() -> None:
    network = Blurred()
    lay_on(network, "filter", Mask(torch.tensor([True, False, False]).expand(4, 1, 3, 3).contiguous()))
    assert int(weight_of(network, "filter").count_nonzero()) == 12
    assert float(penalty(network, trace(Blurred(), (1, 6, 6)))) > 0
