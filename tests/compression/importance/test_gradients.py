"""Taylor against finite differences of the loss, channel by channel."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from compression.zoo import DIGIT, trained_looking, zoo
from pocketpipe.compression.importance.gradients import BATCH, SMOOTHING, taylor
from pocketpipe.compression.members import value_of
from pocketpipe.compression.tracing import trace
from pocketpipe.tasks.digits import Digits

TASK = Digits()
STEP = 1e-5


class Twice(nn.Module):
    """Two layers read what `first` makes; one of them after flattening."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3)
        self.second = nn.Conv2d(4, 10, 3, stride=2)
        self.head = nn.Linear(4 * 36, 10)

    def forward(self, x: Tensor, share: Tensor | float = 1.0) -> Tensor:
        x = self.first(x).relu() * share
        return self.second(x).mean((2, 3)) + self.head(x.flatten(1))


class SharedWeight(nn.Module):
    """Two layers with one weight read what `first` makes, the second twice as much of it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.one, self.other = nn.Linear(6, 4), nn.Linear(4, 10), nn.Linear(4, 10)
        self.other.weight = self.one.weight

    def forward(self, x: Tensor, share: Tensor | float = 1.0) -> Tensor:
        x = self.first(x).relu() * share
        return self.one(x) + self.other(2 * x)


@pytest.mark.parametrize(("form", "shape"), [(Twice, DIGIT), (SharedWeight, (6,))])
def test_it_is_the_squared_slope_of_each_examples_loss(form: type[nn.Module], shape: tuple[int, ...]) -> None:
    """By central differences: the channel's share in what is read, one example at a time."""
    torch.manual_seed(0)
    network = trained_looking(form()).double()
    inputs, targets = torch.randn(5, *shape, dtype=torch.float64), torch.arange(5)
    (group,) = (group for group in trace(network, shape).groups if group.name == "first")

    @torch.no_grad()
    def loss(example: int, channel: int, change: float) -> float:
        share = torch.ones(4, *[1] * (len(shape) - 1), dtype=torch.float64)
        share[channel] += change
        outputs = network(inputs[example : example + 1], share)
        return float(functional.cross_entropy(outputs, targets[example : example + 1], label_smoothing=SMOOTHING))

    slopes = [
        [(loss(example, channel, STEP) - loss(example, channel, -STEP)) / (2 * STEP) for channel in range(4)]
        for example in range(5)
    ]
    expected = torch.tensor(slopes, dtype=torch.float64).square().sum(0)
    assert torch.allclose(taylor(network, [group], TASK, inputs, targets)["first"], expected, rtol=1e-5)


class Bare(nn.Module):
    """A bare parameter reads what `first` makes, beside a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(8, 6), nn.Linear(6, 10)
        self.bare = nn.Parameter(torch.randn(10, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        return self.head(x) + functional.linear(x, self.bare).tanh()


def test_where_a_bare_parameter_reads_it_is_weight_times_gradient() -> None:
    """The slope as all weights that read a channel are scaled together: that in the channel's activations, too."""
    torch.manual_seed(0)
    network = trained_looking(Bare()).double()
    inputs, targets = torch.randn(8, 8, dtype=torch.float64), torch.arange(8)
    group = next(group for group in trace(network, (8,)).groups if group.slimmable)
    assert ("bare", 1) in group.places
    found = taylor(network, [group], TASK, inputs, targets)[group.name]

    @torch.no_grad()
    def loss(channel: int, change: float) -> float:
        scaled = copy.deepcopy(network)
        names = dict(scaled.named_parameters())
        for (name, dim), indices in group.places.items():
            if dim != 1:
                continue  # what makes the channel
            share = torch.zeros(names[name].shape[dim], dtype=torch.float64)
            share[indices[channel]] = change
            view = [-1 if axis == dim else 1 for axis in range(names[name].dim())]
            names[name] += value_of(network, name) * share.view(view)
        return float(functional.cross_entropy(scaled(inputs), targets, label_smoothing=SMOOTHING, reduction="sum"))

    for channel in range(6):
        slope = (loss(channel, STEP) - loss(channel, -STEP)) / (2 * STEP)
        assert float(found[channel]) == pytest.approx(slope**2, rel=1e-4, abs=1e-12)


def test_a_last_batch_that_is_smaller_counts_by_its_examples() -> None:
    network = zoo("resnet8", DIGIT)
    groups = [group for group in trace(network, DIGIT).groups if group.slimmable]
    inputs, targets = torch.randn(BATCH + 3, *DIGIT), torch.arange(BATCH + 3) % 10
    whole = taylor(network, groups, TASK, inputs, targets)
    first, rest = (taylor(network, groups, TASK, inputs[part], targets[part]) for part in (slice(3), slice(3, None)))
    assert all(torch.allclose(whole[name], first[name] + rest[name], rtol=1e-3) for name in whole)


def test_a_frozen_network_is_scored_and_left_alone() -> None:
    network = copy.deepcopy(zoo("resnet8", DIGIT)).requires_grad_(False)
    groups = [group for group in trace(network, DIGIT).groups if group.slimmable]
    scores = taylor(network, groups, TASK, torch.randn(4, *DIGIT), torch.arange(4))
    assert all(bool((score >= 0).all()) and float(score.sum()) > 0 for score in scores.values())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in network.parameters())
