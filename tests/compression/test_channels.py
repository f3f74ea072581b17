"""The step as plans use it: search space, projection, pinning by a criterion, application, JSON, refusals."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from compression.odd_networks import ODD
from compression.zoo import DIGIT, ROWS, trained_looking, zoo
from pocketpipe.budget import Limits
from pocketpipe.compression.channels import SMALLEST_RATIO, ChannelsStep
from pocketpipe.compression.importance import CRITERIA, importance
from pocketpipe.compression.slimming import masked
from pocketpipe.compression.tracing import TracedGroup, profile_of, trace
from pocketpipe.errors import Mistakes, UserError
from pocketpipe.plan import STEPS, CompressionPlan
from pocketpipe.task import Preprocessing, Split

TASK: Any = SimpleNamespace(input_shape=DIGIT, preprocessing=Preprocessing())
"""All that the step asks of a task."""
NO_DATA: Any = None
SOME = Split("noise", np.random.default_rng(0).random((32, *DIGIT), np.float32), np.zeros(32))


def _group(network: nn.Module, shape: tuple[int, ...], name: str) -> TracedGroup:
    return next(group for group in trace(network, shape).groups if group.name == name)


def test_it_is_behind_the_door() -> None:
    assert STEPS.resolve("channels") is ChannelsStep


def test_the_space_has_a_ratio_for_each_group_that_can_be_thinned() -> None:
    space = ChannelsStep.space(profile_of(zoo("resnet8", DIGIT), DIGIT))
    assert list(space) == [
        "conv1",
        "layer1.0.conv1",
        "layer2.0.conv1",
        "layer2.0.conv2",
        "layer3.0.conv1",
        "layer3.0.conv2",
    ]
    assert space["conv1"] == {"_type": "uniform", "_value": [SMALLEST_RATIO, 1.0]}
    factory, shape = ODD["shuffle"]
    assert set(ChannelsStep.space(profile_of(factory(), shape))) == {"inner", "last"}


def test_the_smallest_proposal_is_the_smallest_projection() -> None:
    """What the feasibility check promises (all ratios at their lowest) can be reached by projection, and no more."""
    profile = profile_of(zoo("resnet8", DIGIT), DIGIT)
    lowest = ChannelsStep.from_parameters(dict.fromkeys(ChannelsStep.space(profile), SMALLEST_RATIO), profile)
    smallest = lowest.predict(profile).cost()
    whole = ChannelsStep(widths={})
    assert whole.project(profile, Limits(macs=smallest.macs)).widths == lowest.widths
    with pytest.raises(UserError, match=r"reachable: speedup \d+"):
        whole.project(profile, Limits(macs=smallest.macs - 1))


def test_a_plan_is_carried_out_and_replayed_from_its_json() -> None:
    network = zoo("resnet8", DIGIT)
    profile = profile_of(network, DIGIT)
    limits = Limits(macs=int(profile.cost().macs / 2.5))
    proposal = ChannelsStep.from_parameters({group.name: 0.6 for group in profile.slimmable}, profile)
    slimmed, pinned = CompressionPlan((proposal.project(profile, limits),)).carry_out(network, TASK, SOME)
    assert limits.keeps(profile_of(slimmed, DIGIT).cost())
    assert profile_of(slimmed, DIGIT).cost() == pinned.predict(profile).cost()
    again = CompressionPlan.from_json(pinned.to_json())
    assert again == pinned
    fresh = again.steps[0].apply(copy.deepcopy(network), TASK)
    x = torch.randn(3, *DIGIT)
    step = pinned.steps[0]
    assert isinstance(step, ChannelsStep)
    assert step.channels is not None
    with torch.no_grad():
        whole = masked(network, trace(network, DIGIT), step.channels)(x)
        assert (fresh(x) - whole).abs().max() < 1e-5 * whole.abs().max()
        fresh.load_state_dict(slimmed.state_dict())  # what carrying out adds to applying: statistics on the data
        assert torch.equal(fresh(x), slimmed(x))


def test_a_recurrent_network() -> None:
    task: Any = SimpleNamespace(input_shape=ROWS)
    network = zoo("gru", ROWS)
    step = ChannelsStep(widths={"cell.input_update": 20}).pin(network, task, NO_DATA)
    assert step.apply(network, task).cell.hidden_new.weight.shape == (20, 20)


def test_l1_is_the_sum_over_all_axes_of_a_channel() -> None:
    """By hand, for a channel with two members: the filter that makes it and the column that reads it."""
    network = trained_looking(nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)))
    made = network[0].weight.abs().sum((1, 2, 3))
    read = network[3].weight.abs().view(3, 4, 4).sum((0, 2))
    expected = made / made.mean() + read / read.mean()
    found = importance(network, _group(network, (1, 4, 4), "0"), "l1", seed=0)
    assert torch.allclose(found.float(), expected)


def test_bn_scale_adds_up_the_norms_of_a_group() -> None:
    network = zoo("resnet8", DIGIT)
    expected = network.bn1.weight.abs() + network.layer1[0].bn2.weight.abs()
    expected = expected + network.layer2[0].bn2.weight.abs()[8:24] + network.layer3[0].bn2.weight.abs()[24:40]
    found = importance(network, _group(network, DIGIT, "conv1"), "bn_scale", seed=0)
    assert torch.allclose(found.float(), expected)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_keeps_what_was_asked_and_repeats(criterion: Any) -> None:
    network = zoo("resnet8", DIGIT)
    step = ChannelsStep(widths={"conv1": 5, "layer3.0.conv1": 40}, criterion=criterion)
    channels = step.pin(network, TASK, NO_DATA).channels
    assert channels is not None
    assert {name: len(kept) for name, kept in channels.items()} == {"conv1": 5, "layer3.0.conv1": 40}
    assert all(list(kept) == sorted(set(kept)) for kept in channels.values())
    assert step.pin(copy.deepcopy(network), TASK, NO_DATA).channels == channels


def test_dead_channels_go_first() -> None:
    network = copy.deepcopy(zoo("resnet8", DIGIT))
    dead = [1, 2, 3, 5, 7, 8, 11, 13]
    with torch.no_grad():
        network.layer1[0].conv1.weight[dead] *= 1e-3
        network.layer1[0].bn1.weight[dead] *= 1e-3
        network.layer2[0].conv1.weight[:, dead] *= 1e-3
        network.layer1[0].conv2.weight[:, dead] *= 1e-3
    for criterion in ("l1", "l2", "bn_scale"):
        pinned = ChannelsStep(widths={"layer1.0.conv1": 8}, criterion=criterion).pin(network, TASK, NO_DATA)
        assert pinned.channels == {"layer1.0.conv1": (0, 4, 6, 9, 10, 12, 14, 15)}


def test_random_depends_on_the_seed_alone() -> None:
    network = zoo("resnet8", DIGIT)
    pinned = [
        ChannelsStep(widths={"conv1": 8}, criterion="random", seed=seed).pin(network, TASK, NO_DATA).channels
        for seed in (0, 0, 1)
    ]
    assert pinned[0] == pinned[1] != pinned[2]


def test_whole_groups_are_not_listed() -> None:
    network = zoo("resnet8", DIGIT)
    pinned = ChannelsStep(widths={"conv1": 16, "layer1.0.conv1": 3}).pin(network, TASK, NO_DATA)
    assert set(pinned.channels or {}) == {"layer1.0.conv1"}


@pytest.mark.parametrize(
    ("step", "line"),
    [
        (ChannelsStep(widths={"conv9": 3}), "channels.widths.conv9: no such group; groups: conv1, "),
        (ChannelsStep(widths={"conv1": 17}), "channels.widths.conv1: 17 of 16 channels"),
        (ChannelsStep(widths={"conv1": 2}, channels={"conv1": (1,)}), "channels.channels.conv1: not 2 ascending"),
        (ChannelsStep(widths={"conv1": 2}, channels={"conv1": (2, 1)}), "channels.channels.conv1: not 2 ascending"),
        (ChannelsStep(widths={"conv1": 2}, channels={"conv1": (1, 16)}), "channels.channels.conv1: not 2 ascending"),
    ],
)
def test_what_does_not_fit_is_named(step: ChannelsStep, line: str) -> None:
    with pytest.raises(Mistakes) as refused:
        step.pin(zoo("resnet8", DIGIT), TASK, NO_DATA)
    assert str(refused.value).startswith(line)


def test_a_group_that_cannot_be_thinned_is_named_with_its_node() -> None:
    factory, shape = ODD["spectrum"]
    profile = profile_of(factory(), shape)
    with pytest.raises(
        UserError, match=r"channels.widths.second: cannot be thinned: node 'fft_fft2' \(aten.fft_fft2\)"
    ):
        ChannelsStep(widths={"second": 4}).predict(profile)


def test_all_mistakes_are_listed_together() -> None:
    with pytest.raises(Mistakes) as refused:
        ChannelsStep(widths={"a": 1, "b": 1, "conv1": 99}).predict(profile_of(zoo("resnet8", DIGIT), DIGIT))
    assert len(refused.value.lines) == 3


def test_a_step_that_is_not_pinned_is_not_applied() -> None:
    with pytest.raises(UserError, match="pin the step"):
        ChannelsStep(widths={"conv1": 8}).apply(zoo("resnet8", DIGIT), TASK)


def test_a_plan_by_hand_with_a_wrong_criterion_is_refused() -> None:
    text = '[{"kind": "channels", "widths": {"conv1": 0}, "criterion": "l3"}]'
    with pytest.raises(Mistakes) as refused:
        CompressionPlan.from_json(text)
    assert len(refused.value.lines) == 2
    assert "'l1', 'l2', 'bn_scale' or 'random'" in str(refused.value)


def test_widths_keep_to_multiples() -> None:
    profile = profile_of(zoo("resnet8", DIGIT), DIGIT)
    step = ChannelsStep(widths={}, multiple=8).project(profile, Limits(macs=int(profile.cost().macs / 3)))
    assert all(width % 8 == 0 for width in step.widths.values())
