"""Discrimination-aware selection: it keeps outputs as LASSO does, and classes apart, which LASSO does not ask for."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compression.zoo import DIGIT, zoo
from pocketpipe.compression.importance import discrimination as module
from pocketpipe.compression.importance import most_important
from pocketpipe.compression.importance.discrimination import by_discrimination
from pocketpipe.compression.importance.lasso import by_lasso
from pocketpipe.compression.sparsity.mask import Mask
from pocketpipe.compression.tracing import TracedGroup, trace
from pocketpipe.compression.weights import lay_on
from pocketpipe.errors import UserError
from pocketpipe.tasks.digits import Digits


class TwoClasses(Digits):
    """Only the labels matter here."""

    input_shape = (4,)
    labels = ("no", "yes")


TASK: Any = TwoClasses()


def _inner(network: nn.Module) -> TracedGroup:
    return next(group for group in trace(network, (4,)).groups if group.slimmable)


def _case() -> tuple[nn.Module, Tensor, Tensor]:
    """Three inputs are loud and say nothing; the fourth is faint and is the class."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(128) % 2
    examples = torch.randn(128, 4, generator=generator)
    examples[:, 3] = targets * 0.4 - 0.2
    network = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 8, bias=False), nn.ReLU(), nn.Linear(8, 2))
    with torch.no_grad():
        network[0].weight.copy_(torch.eye(4))
        network[1].weight.copy_(torch.randn(8, 4, generator=generator))
        network[1].weight[4:, :3] *= 0.05  # four outputs in which the class can be seen
    return network.eval(), examples, targets


def test_a_faint_channel_that_tells_classes_apart_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    network, examples, targets = _case()
    by_output = by_lasso(network, [_inner(network)], examples)["0"]
    assert 3 not in most_important(by_output, 2)
    by_both = by_discrimination(network, [_inner(network)], TASK, examples, targets)["0"]
    assert 3 in most_important(by_both, 2)
    monkeypatch.setattr(module, "WEIGHT", 0.0)
    by_reconstruction = by_discrimination(network, [_inner(network)], TASK, examples, targets)["0"]
    assert 3 not in most_important(by_reconstruction, 2)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_without_discrimination_it_is_nearly_the_best_subset(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Greedy reconstruction beside every subset of the same size."""
    monkeypatch.setattr(module, "WEIGHT", 0.0)
    network, examples, targets = _case()
    outputs = network[1](examples).detach()

    def error(subset: tuple[int, ...]) -> float:
        own = examples[:, list(subset)]
        return float((own @ torch.linalg.lstsq(own, outputs).solution - outputs).square().sum())

    chosen = most_important(by_discrimination(network, [_inner(network)], TASK, examples, targets)["0"], count)
    best = min(error(subset) for subset in combinations(range(4), count))
    assert error(chosen) <= 1.05 * best + 1e-6


def test_it_repeats_and_leaves_the_network_alone() -> None:
    network, task = zoo("resnet8", DIGIT), Digits()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    groups = [group for group in trace(network, DIGIT).groups if group.name in ("conv1", "layer3.0.conv1")]
    examples, targets = torch.randn(16, *DIGIT), torch.arange(16) % 10
    first, second = (by_discrimination(network, groups, task, examples, targets) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in ("conv1", "layer3.0.conv1"))
    assert sorted(first["conv1"].tolist()) == list(range(1, 17))
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert not any(submodule._forward_hooks for submodule in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_targets_that_are_no_classes_are_refused() -> None:
    network, examples, _ = _case()
    for targets in (torch.zeros(128, 8, 8, dtype=torch.int64), torch.zeros(128)):
        with pytest.raises(UserError, match="dcp trains classifiers of whole examples"):
            by_discrimination(network, [_inner(network)], TASK, examples, targets)


class Sequences(nn.Module):
    """Its hidden layer reads steps first, as torch's encoders do by default; its head reads examples."""

    def __init__(self) -> None:
        super().__init__()
        self.entry, self.hidden, self.exit, self.head = (
            nn.Linear(5, 8),
            nn.Linear(8, 12),
            nn.Linear(12, 8),
            nn.Linear(8, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        steps = torch.relu(self.entry(x)).transpose(0, 1)
        return self.head(self.exit(torch.relu(self.hidden(steps))).mean(0))


class ThreeClasses(Digits):
    labels = ("a", "b", "c")


def test_layers_whose_first_axis_is_not_the_examples_are_passed_over() -> None:
    network = Sequences().eval()
    groups = trace(network, (7, 5)).groups
    generator = torch.Generator().manual_seed(0)
    x, targets = torch.randn(12, 7, 5, generator=generator), torch.arange(12) % 3
    scores = by_discrimination(network, groups, ThreeClasses(), x, targets)
    hidden = next(group for group in groups if "hidden" in group.members)
    assert hidden.name not in scores
    assert scores


def test_a_mask_on_the_reading_layer_counts() -> None:
    network = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    mask = torch.ones(3, 6, dtype=torch.bool)
    mask[:, :3] = False
    lay_on(network, "2", Mask(mask))
    groups = trace(network, (5,)).groups
    generator = torch.Generator().manual_seed(0)
    x, targets = torch.randn(60, 5, generator=generator), torch.arange(60) % 3
    (score,) = by_discrimination(network, groups, ThreeClasses(), x, targets).values()
    assert set(most_important(score, 3)) == {3, 4, 5}
