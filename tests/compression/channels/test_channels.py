"""The step as plans use it: search space, projection, pinning by a criterion, application, JSON, refusals."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from compression.noise import NO_DATA, SOME, TASK
from compression.odd_networks import ODD
from compression.zoo import DIGIT, ROWS, zoo
from pocketpipe.budget import Limits
from pocketpipe.compression.channels.step import SMALLEST_RATIO, ChannelsStep
from pocketpipe.compression.importance import CRITERIA
from pocketpipe.compression.slimming import masked
from pocketpipe.compression.tracing import profile_of, trace
from pocketpipe.errors import Mistakes, UserError
from pocketpipe.plan import CompressionPlan, MethodChoice
from pocketpipe.samples import prepared_batches
from pocketpipe.task import Split

NEEDS_DATA = ("taylor", "lasso", "dcp")


def test_the_space_has_a_ratio_for_each_group_that_can_be_thinned() -> None:
    space = ChannelsStep().space(profile_of(zoo("resnet8", DIGIT), DIGIT))
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
    assert set(ChannelsStep().space(profile_of(factory(), shape))) == {"stem", "inner", "last"}


def test_the_smallest_proposal_is_the_smallest_projection() -> None:
    """What the feasibility check promises (all ratios at their lowest) can be reached by projection, and no more."""
    profile = profile_of(zoo("resnet8", DIGIT), DIGIT)
    lowest = ChannelsStep().proposed(dict.fromkeys(ChannelsStep().space(profile), SMALLEST_RATIO), profile)
    smallest = lowest.predict(profile).cost()
    whole = ChannelsStep(widths={})
    assert whole.project(profile, Limits(macs=smallest.macs)).widths == lowest.widths
    with pytest.raises(UserError, match=r"reachable: speedup \d+"):
        whole.project(profile, Limits(macs=smallest.macs - 1))


def test_a_plan_is_carried_out_and_replayed_from_its_json() -> None:
    network = zoo("resnet8", DIGIT)
    profile = profile_of(network, DIGIT)
    limits = Limits(macs=int(profile.cost().macs / 2.5))
    proposal = ChannelsStep().proposed({group.name: 0.6 for group in profile.slimmable}, profile)
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


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_keeps_what_was_asked_and_repeats(criterion: Any) -> None:
    network = zoo("resnet8", DIGIT)
    step = ChannelsStep(widths={"conv1": 5, "layer3.0.conv1": 40}, criterion=criterion)
    data = SOME if criterion in NEEDS_DATA else NO_DATA
    channels = step.pin(network, TASK, data).channels
    assert channels is not None
    assert {name: len(kept) for name, kept in channels.items()} == {"conv1": 5, "layer3.0.conv1": 40}
    assert all(list(kept) == sorted(set(kept)) for kept in channels.values())
    assert step.pin(copy.deepcopy(network), TASK, data).channels == channels


@pytest.mark.parametrize("data", [NO_DATA, Split("empty", SOME.inputs[:0], SOME.targets[:0])])
@pytest.mark.parametrize("criterion", NEEDS_DATA)
def test_a_criterion_that_needs_examples_says_so(criterion: Any, data: Any) -> None:
    with pytest.raises(UserError, match=f"^channels.criterion: {criterion} needs calibration examples"):
        ChannelsStep(widths={"conv1": 5}, criterion=criterion).pin(zoo("resnet8", DIGIT), TASK, data)


def test_dead_channels_go_first() -> None:
    network = copy.deepcopy(zoo("resnet8", DIGIT))
    dead = [1, 2, 3, 5, 7, 8, 11, 13]
    with torch.no_grad():
        network.layer1[0].bn1.bias.fill_(2)  # so that all others are alive
        network.layer1[0].conv1.weight[dead] *= 1e-3
        network.layer1[0].bn1.weight[dead] *= 1e-3
        network.layer1[0].bn1.bias[dead] *= 1e-3
        network.layer2[0].conv1.weight[:, dead] *= 1e-3
        network.layer1[0].conv2.weight[:, dead] *= 1e-3
    for criterion in ("l1", "l2", "bn_scale", "taylor", "lasso", "dcp"):
        pinned = ChannelsStep(widths={"layer1.0.conv1": 8}, criterion=criterion).pin(network, TASK, SOME)
        assert pinned.channels == {"layer1.0.conv1": (0, 4, 6, 9, 10, 12, 14, 15)}


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


def test_a_plan_by_hand_with_a_wrong_criterion_is_refused() -> None:
    text = '[{"kind": "channels", "widths": {"conv1": 0}, "criterion": "l3"}]'
    with pytest.raises(Mistakes) as refused:
        CompressionPlan.from_json(text)
    assert len(refused.value.lines) == 2
    assert "'taylor', 'lasso', 'dcp' or 'random'" in str(refused.value)


def test_widths_keep_to_multiples() -> None:
    profile = profile_of(zoo("resnet8", DIGIT), DIGIT)
    step = ChannelsStep(widths={}, multiple=8).project(profile, Limits(macs=int(profile.cost().macs / 3)))
    assert all(width % 8 == 0 for width in step.widths.values())


def test_reconstruction_brings_the_outputs_nearer() -> None:
    """On images that it has not seen, at half the widths."""
    network = zoo("resnet8", DIGIT)
    generator = np.random.default_rng(1)
    examples = Split("noise", generator.integers(0, 17, (400, *DIGIT), np.uint8), np.zeros(400, np.int64))
    x = next(prepared_batches(TASK, examples, 200))
    data = examples.take(np.arange(200, 400))
    step = ChannelsStep(widths={"layer1.0.conv1": 8, "layer2.0.conv1": 16, "layer3.0.conv1": 32}, statistics="kept")
    with torch.no_grad():
        wanted, errors = network(x), []
        for reconstruction in (None, "least_squares"):
            plan = CompressionPlan((step.model_copy(update={"reconstruction": reconstruction}),))
            slimmed, _ = plan.carry_out(network, TASK, data)
            errors.append(float((slimmed(x) - wanted).square().mean()))
    assert errors[1] < 0.6 * errors[0]


def test_kept_statistics_are_those_of_the_channels_that_stay() -> None:
    network = zoo("resnet8", DIGIT)
    step = ChannelsStep(widths={"layer1.0.conv1": 8}, statistics="kept")
    slimmed, plan = CompressionPlan((step,)).carry_out(network, TASK, SOME)
    (pinned,) = plan.steps
    assert isinstance(pinned, ChannelsStep)
    kept = list((pinned.channels or {})["layer1.0.conv1"])
    assert torch.equal(slimmed.layer1[0].bn1.running_var, network.layer1[0].bn1.running_var[kept])
    assert torch.equal(slimmed.bn1.running_mean, network.bn1.running_mean)


@pytest.mark.parametrize("data", [NO_DATA, Split("empty", SOME.inputs[:0], SOME.targets[:0])])
@pytest.mark.parametrize(
    ("step", "line"),
    [
        (ChannelsStep(widths={"conv1": 5}, reconstruction=None), "BatchNorm's statistics need calibration examples"),
        (ChannelsStep(widths={"conv1": 5}), "channels.reconstruction: least_squares"),
    ],
)
def test_calibration_without_examples_is_refused(step: ChannelsStep, line: str, data: Any) -> None:
    with pytest.raises(UserError, match=f"^{line}"):
        CompressionPlan((step,)).carry_out(zoo("resnet8", DIGIT), TASK, data)


def test_where_nothing_is_cut_nothing_is_calibrated() -> None:
    network = zoo("resnet8", DIGIT)
    whole, _ = CompressionPlan((ChannelsStep(widths={"conv1": 16}),)).carry_out(network, TASK, NO_DATA)
    assert all(torch.equal(a, b) for a, b in zip(whole.buffers(), network.buffers(), strict=True))


def test_with_all_channels_left_whole_there_is_nothing_to_score() -> None:
    network = zoo("resnet8", DIGIT)
    step = ChannelsStep(criterion="taylor", widths={"conv1": 16}).pin(network, TASK, NO_DATA)
    assert step.channels == {}


PINNED = ChannelsStep(pinned=("layer3.*", "conv1"), multiple=4, criterion="taylor", minimum=4)


def test_pinned_layers_are_left_whole() -> None:
    """`layer3.*` names layers of three groups: those inside the block, and the one that the block's output is in."""
    profile = profile_of(zoo("resnet8", DIGIT), DIGIT)
    space = PINNED.space(profile)
    assert list(space) == ["layer1.0.conv1", "layer2.0.conv1"]
    step = PINNED.proposed(dict.fromkeys(space, 0.5), profile)
    projected = step.project(profile, Limits(macs=int(profile.cost().macs / 1.3)))
    assert set(projected.widths) == set(space)


def test_thinning_a_pinned_group_is_a_mistake() -> None:
    profile = profile_of(zoo("resnet8", DIGIT), DIGIT)
    step = ChannelsStep(widths={"conv1": 4, "layer1.0.conv1": 4}, pinned=("conv?",))
    with pytest.raises(Mistakes) as refused:
        step.predict(profile)
    assert refused.value.lines == (
        "channels.widths.conv1: 4 of 16 channels, but 'conv?' in channels.pinned keeps it whole",
    )
    ChannelsStep(widths={"conv1": 16}, pinned=("conv?",)).predict(profile)


@pytest.mark.parametrize("ask", ["space", "project", "predict"])
def test_a_pattern_that_matches_nothing_names_close_layers(ask: str) -> None:
    profile = profile_of(zoo("resnet8", DIGIT), DIGIT)
    step = ChannelsStep(widths={}, pinned=("layer1.0.conv3",))
    asked: dict[str, Any] = {
        "space": lambda: ChannelsStep(pinned=("layer1.0.conv3",)).space(profile),
        "project": lambda: step.project(profile, Limits(macs=10**6)),
        "predict": lambda: step.predict(profile),
    }
    with pytest.raises(Mistakes, match=r"^channels.pinned: 'layer1.0.conv3' matches no layer; close: layer1.0.conv2"):
        asked[ask]()


def test_a_configured_method_makes_steps_with_its_options() -> None:
    profile = profile_of(zoo("resnet8", DIGIT), DIGIT)
    step = PINNED.proposed({"layer1.0.conv1": 0.3}, profile)
    assert (step.criterion, step.multiple, step.widths) == ("taylor", 4, {"layer1.0.conv1": 4})
    assert PINNED.kind == "channels"
    assert CompressionPlan.from_json(CompressionPlan((step,)).to_json()).steps == (step,)
    assert ChannelsStep().proposed({"layer1.0.conv1": 0.3}, profile).multiple == 1


def test_options_of_a_configured_method_are_checked_together() -> None:
    with pytest.raises(Mistakes, match=r"methods\.channels\.widths: the search fills it in; leave it out"):
        MethodChoice.model_validate({"channels": {"widths": {"conv1": 8}}}).step()
    choice = MethodChoice.model_validate({"channels": {"criterion": "l3", "multiple": 0, "width": 3}})
    with pytest.raises(Mistakes) as refused:
        choice.step()
    assert [line.split(":")[0] for line in refused.value.lines] == [
        "methods.channels.criterion",
        "methods.channels.multiple",
        "methods.channels.width",
    ]


class Narrow(nn.Module):
    """Two channels in the middle, of which one goes early."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Conv2d(1, 16, 1), nn.Conv2d(16, 2, 1), nn.Conv2d(2, 16, 1)
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.last(torch.relu(self.middle(torch.relu(self.first(x)))))
        return self.head(torch.relu(x).mean((2, 3)))


def test_portions_go_on_where_a_group_is_down_to_one() -> None:
    network: nn.Module = Narrow()
    profile = profile_of(network, DIGIT)
    wanted = ChannelsStep(widths={"first": 4, "middle": 1, "last": 4}, criterion="l1")
    for step in wanted.in_portions(profile, 4):
        network, _ = CompressionPlan((step,)).carry_out(network, TASK, SOME)
    assert profile_of(network, DIGIT).cost() == wanted.predict(profile).cost()


@pytest.mark.parametrize("pieces", ["portions", "layers"])
def test_pieces_one_after_the_other_end_in_the_final_widths(pieces: str) -> None:
    """Each piece on the network that the one before left, as training carries them out."""
    network = zoo("resnet8", DIGIT)
    profile = profile_of(network, DIGIT)
    wanted = ChannelsStep(widths={}, reconstruction="least_squares").project(
        profile, Limits(macs=int(profile.cost().macs / 3))
    )
    pinned = wanted.pin(network, TASK, NO_DATA)
    steps = pinned.in_portions(profile, 3) if pieces == "portions" else pinned.by_layers(profile, 2)
    assert len(steps) == 3
    assert all(step.channels is None and step.reconstruction == "least_squares" for step in steps)
    for step in steps:
        expected = step.predict(profile).cost()
        network, _ = CompressionPlan((step,)).carry_out(network, TASK, SOME)
        profile = profile_of(network, DIGIT)
        assert profile.cost() == expected
    assert profile.widths() == {**profile.widths(), **wanted.widths}


def test_a_plan_by_hand_names_the_channels_of_every_group_that_it_thins() -> None:
    network, task = zoo("resnet8", DIGIT), TASK
    names = [group.name for group in profile_of(network, DIGIT).groups if group.slimmable][:2]
    step = ChannelsStep(widths=dict.fromkeys(names, 2), channels={names[0]: (0, 1)})
    with pytest.raises(Mistakes, match=f"channels.channels.{names[1]}: 2 of its channels are to stay"):
        step.apply(network, task)
