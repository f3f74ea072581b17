"""Global ranking against a plain search that prices every removal by the whole network's cost."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compression.zoo import DIGIT, SMALL, zoo
from pocketpipe.budget import Limits
from pocketpipe.compression.channels import ChannelsStep
from pocketpipe.compression.channels.projection import AllowedWidths
from pocketpipe.compression.channels.ranking import ranked, widths_by_worth
from pocketpipe.compression.importance import importance
from pocketpipe.compression.members import made_by_one
from pocketpipe.compression.tracing import profile_of, trace
from pocketpipe.errors import Mistakes, UserError
from pocketpipe.plan import CompressionPlan
from pocketpipe.profile import NetworkProfile
from pocketpipe.tasks.digits import Digits

TASK = Digits()
DATA = TASK.load(seed=0, holdout=None)[0].train


def _plainly(profile: NetworkProfile, scores: dict[str, Tensor], grid: AllowedWidths, limits: Limits) -> dict[str, int]:
    """One channel after the other; each candidate priced by the cost of the whole network with and without it."""
    left = {name: sorted(score.tolist()) for name, score in scores.items()}
    channels = {name: len(score) for name, score in left.items()}

    def widths() -> dict[str, int]:
        return {name: len(score) for name, score in left.items()}

    def share(chosen: dict[str, int]) -> float:
        cost = profile.cost(chosen)
        pairs = ((cost.macs, limits.macs), (cost.file_bytes, limits.file_bytes))
        return sum(used / limit for used, limit in pairs if limit is not None)

    while not limits.keeps(profile.cost(widths())):
        worths = {}
        for name, score in left.items():
            count = len(score) - grid.narrower(len(score), channels[name])
            if count > 0:
                saved = share(widths()) - share({**widths(), name: len(score) - count})
                worths[name] = (sum(score[:count]) / saved, count)
        name = min(worths, key=lambda name: worths[name][0])
        del left[name][: worths[name][1]]
    return widths()


@pytest.mark.parametrize("limit", [{"macs": 2.5}, {"file_bytes": 3.0}, {"macs": 1.5, "file_bytes": 4.0}])
@pytest.mark.parametrize("grid", [AllowedWidths(1, 1, 0.1), AllowedWidths(3, 4, 0.1)])
def test_it_is_what_pricing_the_whole_network_gives(limit: dict[str, float], grid: AllowedWidths) -> None:
    profile = profile_of(zoo("resnet8", DIGIT), DIGIT)
    generator = torch.Generator().manual_seed(0)
    scores = {g.name: torch.rand(g.channels, generator=generator, dtype=torch.float64) for g in profile.slimmable}
    limits = Limits(**{name: int(getattr(profile.cost(), name) / times) for name, times in limit.items()})
    assert widths_by_worth(profile, profile.slimmable, scores, grid, limits) == _plainly(profile, scores, grid, limits)


def test_the_step_is_pinned_keeps_the_limits_and_can_be_carried_out() -> None:
    network = zoo("resnet8", DIGIT)
    profile = profile_of(network, DIGIT)
    limits = Limits(macs=profile.cost().macs // 2)
    step = ranked(network, TASK, DATA, profile, limits, "taylor", minimum=4)
    assert limits.keeps(step.predict(profile).cost())
    assert limits.usage(step.predict(profile).cost()) > 0.9
    assert min(step.widths.values()) >= 4
    slimmed, plan = CompressionPlan((step,)).carry_out(network, TASK, DATA)
    assert plan.steps == (step,)
    assert profile_of(slimmed, DIGIT).cost() == step.predict(profile).cost()


def test_the_step_suggests_its_ranking_to_the_search() -> None:
    network = zoo("resnet8", DIGIT)
    profile = profile_of(network, DIGIT)
    limits = Limits(macs=profile.cost().macs // 2)
    method = ChannelsStep(pinned=("layer1.0.conv1",), minimum=4)
    (point,) = method.informed(network, TASK, DATA, profile, limits)
    assert set(point) == set(method.space(profile))
    step = ranked(network, TASK, DATA, profile, limits, "taylor", groups=tuple(point), minimum=4)
    proposed = method.proposed(point, profile)
    assert profile.widths(proposed.widths) == profile.widths(step.widths)
    assert min(point.values()) < max(point.values())


def test_no_channel_that_went_was_worth_more_than_one_that_stayed_in_its_group() -> None:
    network = zoo("resnet8", DIGIT)
    traced = trace(network, DIGIT)
    profile = traced.profile()
    step = ranked(network, TASK, DATA, profile, Limits(macs=profile.cost().macs // 2), "taylor")
    groups = [group for group in traced.groups if group.slimmable]
    scores = importance(network, groups, "taylor", task=TASK, data=DATA, seed=0)
    assert step.channels
    for name, kept in step.channels.items():
        gone = [channel for channel in range(len(scores[name])) if channel not in kept]
        assert scores[name][gone].max() <= scores[name][list(kept)].min()


def test_groups_that_are_not_named_stay_whole() -> None:
    network = zoo("resnet8", DIGIT)
    traced = trace(network, DIGIT)
    inside = made_by_one(network, traced.groups)
    assert inside == ("layer1.0.conv1", "layer2.0.conv1", "layer3.0.conv1", "layer3.0.conv2")  # the last: to zeros
    profile = traced.profile()
    step = ranked(network, TASK, DATA, profile, Limits(macs=profile.cost().macs // 2), "l1", groups=inside)
    assert set(step.widths) == set(inside)


def test_a_depthwise_convolution_ties_nothing() -> None:
    """Inverted residuals: the wide part inside a block is made by its expansion, whatever runs depthwise over it."""
    network = zoo("mobilenet_v2", SMALL)
    groups = [group for group in trace(network, SMALL).groups if group.slimmable]
    inside = set(made_by_one(network, groups))
    convolutions = {name: layer for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d)}
    wide = {g.name for g in groups if any(convolutions[m].groups > 1 for m in g.members if m in convolutions)}
    assert wide <= inside
    assert 0 < len(wide) <= len(inside) < len(groups)


@pytest.mark.parametrize("criterion", ["l1", "fpgm", "lasso", "dcp", "random"])
def test_every_criterion_can_be_ranked(criterion: Any) -> None:
    network = zoo("resnet8", DIGIT)
    profile = profile_of(network, DIGIT)
    limits = Limits(macs=profile.cost().macs // 2)
    assert limits.keeps(ranked(network, TASK, DATA, profile, limits, criterion).predict(profile).cost())


def test_what_cannot_be_ranked_is_named() -> None:
    network = zoo("resnet8", DIGIT)
    profile = profile_of(network, DIGIT)
    with pytest.raises(Mistakes, match="ranked: groups: 'linear' cannot be thinned; groups that can: conv1, "):
        ranked(network, TASK, DATA, profile, Limits(macs=1), groups=("linear",))
    with pytest.raises(UserError, match="reachable: speedup"):
        ranked(network, TASK, DATA, profile, Limits(macs=1000), groups=("layer1.0.conv1",))
