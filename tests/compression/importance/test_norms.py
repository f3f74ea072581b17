"""Criteria that read weights alone, by hand."""

from __future__ import annotations

import copy

import torch
from torch import nn

from compression.zoo import DIGIT, trained_looking, zoo
from pocketpipe.compression.importance.norms import batchnorm_scale, drawn, l1, l2
from pocketpipe.compression.sparsity.mask import Mask
from pocketpipe.compression.tracing import TracedGroup, trace
from pocketpipe.compression.weights import lay_on


def _group(network: nn.Module, shape: tuple[int, ...], name: str) -> TracedGroup:
    return next(group for group in trace(network, shape).groups if group.name == name)


def test_l1_is_the_sum_over_all_axes_of_a_channel() -> None:
    """For a channel with two members: the filter that makes it and the column that reads it."""
    network = trained_looking(nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)))
    made = network[0].weight.abs().sum((1, 2, 3))
    read = network[3].weight.abs().view(3, 4, 4).sum((0, 2))
    expected = made / made.mean() + read / read.mean()
    assert torch.allclose(l1(network, _group(network, (1, 4, 4), "0")).float(), expected)


def test_l2_is_the_norm_of_each_row() -> None:
    network = trained_looking(nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)))
    made, read = network[0].weight.norm(dim=1), network[2].weight.norm(dim=0)
    expected = made / made.mean() + read / read.mean()
    assert torch.allclose(l2(network, _group(network, (5,), "0")).float(), expected)


def test_bn_scale_adds_up_the_norms_of_a_group() -> None:
    network = zoo("resnet8", DIGIT)
    expected = network.bn1.weight.abs() + network.layer1[0].bn2.weight.abs()
    expected = expected + network.layer2[0].bn2.weight.abs()[8:24] + network.layer3[0].bn2.weight.abs()[24:40]
    assert torch.allclose(batchnorm_scale(network, _group(network, DIGIT, "conv1")).float(), expected)


def test_bn_scale_without_batchnorm_is_l1() -> None:
    network = trained_looking(nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)))
    group = _group(network, (5,), "0")
    assert torch.equal(batchnorm_scale(network, group), l1(network, group))


def test_a_sparse_weight_counts_as_it_is_computed_with() -> None:
    """What lies on a weight (here a mask) is part of it."""
    network = trained_looking(nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)))
    masked = copy.deepcopy(network)
    mask = torch.rand(4, 5, generator=torch.Generator().manual_seed(0)) < 0.5
    lay_on(masked, "0", Mask(mask))
    with torch.no_grad():
        network[0].weight.mul_(mask)
    assert torch.allclose(l1(masked, _group(masked, (5,), "0")), l1(network, _group(network, (5,), "0")))


def test_random_depends_on_seed_and_group_alone() -> None:
    groups = trace(zoo("resnet8", DIGIT), DIGIT).groups
    same, other = (drawn(groups[0], seed) for seed in (0, 1))
    assert torch.equal(drawn(groups[0], 0), same)
    assert not torch.equal(same, other)
    assert not torch.equal(drawn(groups[1], 0), same)
