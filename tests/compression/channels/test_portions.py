"""Ways to given widths: even factors of MACs, or a few groups at a time."""

from __future__ import annotations

from itertools import pairwise

import pytest

from compression.zoo import DIGIT, SMALL, zoo
from pocketpipe.budget import Limits
from pocketpipe.compression.channels.portions import by_groups, in_portions
from pocketpipe.compression.channels.projection import AllowedWidths, projected
from pocketpipe.compression.tracing import profile_of
from pocketpipe.profile import NetworkProfile


def _target(profile: NetworkProfile, times: float) -> dict[str, int]:
    ratios = {group.name: 0.4 + 0.6 * (index * 7 % 10) / 10 for index, group in enumerate(profile.slimmable)}
    return projected(profile, ratios, AllowedWidths(1, 1, 0.1), Limits(macs=int(profile.cost().macs / times)))


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2"])
@pytest.mark.parametrize(("times", "count"), [(2.5, 2), (4.0, 4)])
def test_each_portion_takes_the_same_factor(name: str, times: float, count: int) -> None:
    profile = profile_of(zoo(name, SMALL), SMALL)
    widths = _target(profile, times)
    portions = in_portions(profile, widths, count)
    assert portions[-1] == widths
    macs = [profile.cost().macs, *(profile.cost(portion).macs for portion in portions)]
    factor = (macs[0] / macs[-1]) ** (1 / count)
    assert [before / after for before, after in pairwise(macs)] == pytest.approx([factor] * count, rel=0.03)


def test_no_group_ever_grows_again() -> None:
    profile = profile_of(zoo("resnet20", SMALL), SMALL)
    portions = [profile.widths(), *in_portions(profile, _target(profile, 6), 7)]
    for before, after in pairwise(portions):
        assert all(width <= before[name] for name, width in after.items())


def test_portions_that_change_nothing_are_left_out() -> None:
    profile = profile_of(zoo("resnet8", DIGIT), DIGIT)
    assert in_portions(profile, {"conv1": 14}, 9) == [{"conv1": 15}, {"conv1": 14}]
    assert in_portions(profile, {"conv1": 16}, 3) == []


def test_groups_come_in_graph_order_a_few_at_a_time() -> None:
    profile = profile_of(zoo("resnet8", DIGIT), DIGIT)
    widths = {"layer3.0.conv2": 5, "conv1": 4, "layer1.0.conv1": 16, "layer2.0.conv1": 7, "layer3.0.conv1": 9}
    assert by_groups(profile, widths, 2) == [
        {"conv1": 4, "layer2.0.conv1": 7},
        {"layer3.0.conv1": 9, "layer3.0.conv2": 5},
    ]
    assert [list(piece) for piece in by_groups(profile, widths, 3)] == [
        ["conv1", "layer2.0.conv1", "layer3.0.conv1"],
        ["layer3.0.conv2"],
    ]
