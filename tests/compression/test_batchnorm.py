"""Statistics measured anew, against their definition."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from compression.zoo import DIGIT, zoo
from own.tasks import Shapes
from pocketpipe.compression.batchnorm import batch_statistics, reestimate, reestimate_on
from pocketpipe.compression.sampling import training_views


def test_it_is_the_average_over_batches() -> None:
    network = nn.Sequential(nn.BatchNorm1d(3)).eval()
    batches = [torch.randn(n, 3, generator=torch.Generator().manual_seed(n)) * n for n in (8, 16, 5)]
    reestimate(network, batches)
    assert torch.allclose(network[0].running_mean, torch.stack([b.mean(0) for b in batches]).mean(0), atol=1e-6)
    assert torch.allclose(network[0].running_var, torch.stack([b.var(0) for b in batches]).mean(0), rtol=1e-5)


def test_old_statistics_leave_no_trace() -> None:
    network = copy.deepcopy(zoo("resnet8", DIGIT))
    other = copy.deepcopy(network)
    for module in other.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.fill_(7)
            module.running_var.fill_(9)
    batches = torch.randn(2, 16, *DIGIT, generator=torch.Generator().manual_seed(0))
    reestimate(network, batches)
    reestimate(other, batches)
    assert all(torch.equal(a, b) for a, b in zip(network.buffers(), other.buffers(), strict=True))


@pytest.mark.parametrize("training", [True, False])
def test_modes_and_momenta_come_back(training: bool) -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, momentum=0.3), nn.Dropout(0.5)).train(training)
    network[2].train(not training)
    weight = network[0].weight.clone()
    reestimate(network, [torch.randn(4, 3)])
    assert network[1].momentum == 0.3
    assert [module.training for module in network] == [training, training, not training]
    assert torch.equal(network[0].weight, weight)
    assert network[0].weight.grad is None


def test_modes_come_back_after_an_error() -> None:
    network = nn.Sequential(nn.BatchNorm1d(3, momentum=0.3)).eval()
    with pytest.raises(ValueError, match="expected"):
        reestimate(network, [torch.randn(4, 3, 2, 2)])
    assert network[0].momentum == 0.3
    assert not network[0].training


def test_without_batchnorm_nothing_is_read() -> None:
    def batches() -> object:
        raise AssertionError("read")
        yield

    reestimate(nn.Sequential(nn.Linear(2, 2)), batches())  # type: ignore[arg-type]


def test_no_batches_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one batch"):
        reestimate(nn.Sequential(nn.BatchNorm1d(2)), [])


def test_an_augmentation_in_place_leaves_the_examples_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    task = Shapes(400)
    splits, _ = task.load(seed=0, holdout=None)
    before = splits.train.inputs.copy()
    monkeypatch.setattr(Shapes, "augment", lambda self, inputs, generator: inputs.zero_())
    reestimate_on(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64)), task, splits.train)
    training_views(task, splits.train, torch.device("cpu"), wanted_by="this test")
    assert before.any()
    assert np.array_equal(splits.train.inputs, before)


def test_no_batch_is_much_smaller_than_the_others() -> None:
    """Each counts the same, and a single example has no spread."""
    seen = []
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64))
    network[0].register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    task = Shapes(400)
    splits, _ = task.load(seed=0, holdout=None)
    reestimate_on(network, task, splits.train.take(np.arange(257)))
    assert seen == [129, 128]


def test_statistics_are_those_of_augmented_views() -> None:
    """What training shows is what statistics must fit: here a task whose views are negatives."""

    class Negatives(Shapes):
        def augment(self, inputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
            return 255 - inputs

    task = Negatives(100)
    splits, _ = task.load(seed=0, holdout=None)
    network = nn.Sequential(nn.BatchNorm2d(1)).eval()
    reestimate_on(network, task, splits.train)
    mean = float((255 - splits.train.inputs.astype(np.float64)).mean() / 255 - 0.5) / 0.5
    assert float(network[0].running_mean) == pytest.approx(mean, abs=1e-5)


class OwnForward(nn.BatchNorm1d):
    """A BatchNorm that hands its momentum on, as older libraries' do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        arguments = (self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum)
        return functional.batch_norm(x, *arguments)


def test_a_forward_of_its_own_is_averaged_too() -> None:
    own, plain = nn.Sequential(OwnForward(3)), nn.Sequential(nn.BatchNorm1d(3))
    batches = torch.randn(4, 16, 3, generator=torch.Generator().manual_seed(0))
    for network in (own, plain):
        reestimate(network, batches)
    assert torch.equal(own[0].running_mean, plain[0].running_mean)
    assert torch.equal(own[0].running_var, plain[0].running_var)


def test_statistics_of_a_batch_leave_a_synchronized_batchnorm_as_it_was() -> None:
    """It refuses to be trained without a count of its batches."""
    norm = nn.SyncBatchNorm(3).eval()
    norm.num_batches_tracked.fill_(7)
    x = torch.randn(16, 3, 4, generator=torch.Generator().manual_seed(0))
    with batch_statistics(norm):
        found = norm(x)
    assert torch.allclose(found, functional.batch_norm(x, None, None, training=True), atol=1e-5)
    assert norm.num_batches_tracked == 7
    assert torch.equal(norm.running_mean, torch.zeros(3))
