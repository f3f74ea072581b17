"""The penalty on coupled channels against what zeroing a channel takes away, and what it does to weights."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from compression.odd_networks import Dense, Shuffle, Squeeze
from compression.zoo import DIGIT, SMALL, zoo
from pocketpipe.compression.group_sparsity import channel_norms, on_device, penalty, pulls
from pocketpipe.compression.slimming import masked
from pocketpipe.compression.tracing import Trace, TracedGroup, trace


def zeroed_away(network: nn.Module, traced: Trace, group: TracedGroup, channel: int) -> float:
    """Norm of all parameters that zeroing this one channel changes."""
    kept = [index for index in range(group.channels) if index != channel]
    without = dict(masked(network, traced, {group.name: kept}).named_parameters())
    squares = [(own - without[name]).square().sum() for name, own in network.named_parameters()]
    return float(torch.stack(squares).detach().sum().sqrt())


def example(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    torch.manual_seed(0)
    match name:
        case "dense":
            return Dense(), SMALL
        case "shuffle":
            return Shuffle(), SMALL
        case "squeeze":
            return Squeeze(), SMALL
        case _:
            return zoo(name, DIGIT), DIGIT


def test_indices_lie_where_they_are_asked_for() -> None:
    network, shape = example("dense")
    traced = trace(network, shape)
    moved = on_device(traced, torch.device("meta"))
    assert {index.device.type for group in moved.groups for index in group.places.values()} == {"meta"}
    assert {index.device.type for group in traced.groups for index in group.places.values()} == {"cpu"}


@pytest.mark.parametrize("name", ["resnet8", "dense", "shuffle", "squeeze"])
def test_the_penalty_is_the_sum_of_what_zeroing_each_channel_takes_away(name: str) -> None:
    network, shape = example(name)
    traced = trace(network, shape)
    groups = [group for group in traced.groups if group.slimmable]
    taken = [torch.tensor([zeroed_away(network, traced, group, i) for i in range(group.channels)]) for group in groups]
    assert penalty(network, traced).item() == pytest.approx(sum(each.sum().item() for each in taken), rel=1e-4)
    focused = 0.0
    for norms in taken:  # DepGraph, equation 5
        weakest, strongest = norms.min() ** 2, norms.max() ** 2
        focused += (2 ** (3 * (strongest - norms**2) / (strongest - weakest)) * norms).sum().item()
    assert penalty(network, traced, focus=3.0).item() == pytest.approx(focused, rel=1e-3)


def test_the_norm_of_a_depthwise_channel_is_what_zeroing_it_takes_away() -> None:
    network, shape = example("mobilenet_v1")
    traced = trace(network, shape)
    group = next(group for group in traced.groups if group.slimmable)
    norms = channel_norms(dict(network.named_parameters()), group)
    for channel in (0, group.channels - 1):
        assert norms[channel].item() == pytest.approx(zeroed_away(network, traced, group, channel), rel=1e-5)


def test_the_weakest_channel_is_pulled_hardest() -> None:
    network, shape = example("resnet8")
    traced = trace(network, shape)
    group = next(group for group in traced.groups if group.slimmable)
    norms = channel_norms(dict(network.named_parameters()), group).detach()
    found = pulls(norms, 4.0)
    squares = norms.double().square()
    expected = 2 ** (4 * (squares.max() - squares) / (squares.max() - squares.min()))
    assert torch.allclose(found.double(), expected, rtol=1e-5)
    assert found[norms.argmin()].item() == pytest.approx(16.0)
    assert found[norms.argmax()].item() == pytest.approx(1.0)
    assert torch.equal(pulls(norms, 0.0), torch.ones_like(norms))


def test_descending_it_shrinks_norms_by_the_same_amount_and_a_dead_channel_has_no_gradient() -> None:
    """The gradient of a norm has length 1: a small step takes its length from each channel of a single group."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 4))
    with torch.no_grad():
        network[0].weight[2] = 0.0
        network[0].bias[2] = 0.0
        network[3].weight.view(4, 6, 36)[:, 2] = 0.0
    traced = trace(network, (3, 8, 8))
    (group,) = [group for group in traced.groups if group.slimmable]
    before = channel_norms(dict(network.named_parameters()), group).detach()
    penalty(network, traced).backward()
    with torch.no_grad():
        for parameter in network.parameters():
            assert parameter.grad is None or torch.isfinite(parameter.grad).all()
            if parameter.grad is not None:
                parameter.sub_(0.01 * parameter.grad)
    after = channel_norms(dict(network.named_parameters()), group).detach()
    shrunk = before - after
    assert shrunk[2] == 0.0
    assert torch.allclose(torch.cat([shrunk[:2], shrunk[3:]]), torch.full((5,), 0.01), atol=1e-5)


def test_a_network_without_slimmable_groups_costs_nothing() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    assert penalty(network, trace(network, (1, 2, 2))).item() == 0.0


def test_the_same_trace_serves_a_copy() -> None:
    """Training traces once; what is trained may be a copy with other weights."""
    network, shape = example("resnet8")
    traced, copied = trace(network, shape), copy.deepcopy(network)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.mul_(2.0)
    assert penalty(copied, traced).item() == pytest.approx(2 * penalty(network, traced).item(), rel=1e-5)
