"""Projection keeps every limit, comes as close as channels allow, and keeps proportions."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compression.zoo import DIGIT, SMALL, zoo
from pocketpipe.budget import Limits
from pocketpipe.compression.channels.projection import CLOSE_ENOUGH, AllowedWidths, projected
from pocketpipe.compression.tracing import profile_of
from pocketpipe.errors import UserError
from pocketpipe.profile import Axis, ChannelGroup, Layer, NetworkProfile

FINE = AllowedWidths(minimum=1, multiple=1, smallest_ratio=0.1)


def _chain(channels: list[int], residual: bool) -> NetworkProfile:
    """3x3 convolutions one after the other; with `residual` the last one also goes with the first group."""
    names = [f"g{index}" for index in range(len(channels))]
    layers = []
    for index, name in enumerate(names):
        before = Axis(fixed=3) if index == 0 else Axis(groups={names[index - 1]: 1})
        made = Axis(groups={names[0] if residual and index == len(names) - 1 else name: 1})
        layers.append(
            Layer(
                name=name,
                operator="conv2d",
                weight=(made, before, Axis(fixed=9)),
                bias=made,
                positions=4 ** (index % 3),
                output_shape=(),
            )
        )
    used = names[:-1] if residual and len(names) > 1 else names
    groups = [ChannelGroup(name=name, channels=channels[names.index(name)], members=(name,)) for name in used]
    return NetworkProfile(input_shape=(3, 8, 8), layers=tuple(layers), groups=tuple(groups), file_overhead=500)


@st.composite
def _cases(draw: st.DrawFn) -> tuple[NetworkProfile, dict[str, float], AllowedWidths, Limits]:
    channels = draw(st.lists(st.integers(2, 40), min_size=2, max_size=5))
    profile = _chain(channels, draw(st.booleans()))
    ratios = {group.name: draw(st.floats(0.1, 1.0)) for group in profile.groups}
    grid = AllowedWidths(draw(st.integers(1, 4)), draw(st.sampled_from([1, 2, 4, 8])), 0.1)
    dense = profile.cost()
    macs, size = (draw(st.one_of(st.none(), st.floats(1.0, 20.0))) for _ in range(2))
    limits = Limits(
        macs=int(dense.macs / (macs or 1.5)) if macs or not size else None,
        file_bytes=int(dense.file_bytes / size) if size else None,
    )
    return profile, ratios, grid, limits


@given(_cases())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_never_over_and_as_close_as_channels_allow(
    case: tuple[NetworkProfile, dict[str, float], AllowedWidths, Limits],
) -> None:
    profile, ratios, grid, limits = case
    channels = {group.name: group.channels for group in profile.groups}
    smallest = {name: grid.smallest(count) for name, count in channels.items()}
    if not limits.keeps(profile.cost(smallest)):
        with pytest.raises(UserError, match="reachable: speedup"):
            projected(profile, ratios, grid, limits)
        return
    widths = projected(profile, ratios, grid, limits)
    cost = profile.cost(widths)
    assert limits.keeps(cost)
    for name, width in widths.items():
        assert smallest[name] <= width <= channels[name]
        assert width % grid.multiple == 0 or width == channels[name]
    wider = [{**widths, name: grid.wider(width, channels[name])} for name, width in widths.items()]
    fits = [candidate for candidate in wider if candidate != widths and limits.keeps(profile.cost(candidate))]
    assert limits.usage(cost) >= CLOSE_ENOUGH or not fits
    assert projected(profile, ratios, grid, limits) == widths


COARSE = ("g0", "g1", "g2")


@given(
    st.tuples(*[st.integers(3, 8)] * len(COARSE)),
    st.floats(1.5, 4.0),
    st.tuples(*[st.floats(0.2, 1)] * len(COARSE)),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_two_percent_wherever_any_setting_reaches_it(
    channels: tuple[int, ...], ratio: float, shares: tuple[float, ...]
) -> None:
    """Networks so small that every setting can be tried: if one is within 2 %, one within 2 % is found."""
    profile = _chain(list(channels), residual=False)
    limits = Limits(macs=int(profile.cost().macs / ratio))
    costs = [
        profile.cost(dict(zip(COARSE, widths, strict=True)))
        for widths in product(*(range(1, count + 1) for count in channels))
    ]
    best = max(limits.usage(cost) for cost in costs if limits.keeps(cost))
    widths = projected(profile, dict(zip(COARSE, shares, strict=True)), FINE, limits)
    assert min(best, CLOSE_ENOUGH) <= limits.usage(profile.cost(widths)) <= best


@pytest.mark.parametrize("name", ["resnet20", "resnet8_mlperf_tiny", "mobilenet_v2"])
@pytest.mark.parametrize("limit", ["macs", "file_bytes"])
@pytest.mark.parametrize("times", [1.3, 2.5, 6.0])
def test_real_networks_come_within_two_percent(name: str, limit: str, times: float) -> None:
    profile = profile_of(zoo(name, SMALL), SMALL)
    limits = Limits(**{limit: int(getattr(profile.cost(), limit) / times)})
    ratios = {group.name: 0.2 + 0.8 * (index * 7 % 10) / 10 for index, group in enumerate(profile.slimmable)}
    assert CLOSE_ENOUGH <= limits.usage(profile.cost(projected(profile, ratios, FINE, limits))) <= 1


def test_proportions_are_kept() -> None:
    profile = _chain([100, 100, 100, 100], residual=False)
    ratios = {"g0": 0.8, "g1": 0.4, "g2": 0.4, "g3": 0.2}
    limits = Limits(macs=int(profile.cost().macs / 12))
    widths = projected(profile, ratios, FINE, limits)
    scale = widths["g0"] / 80
    assert all(abs(widths[name] - scale * 100 * ratio) <= 2 for name, ratio in ratios.items())


def test_a_group_at_its_end_leaves_the_room_to_the_others() -> None:
    profile = _chain([100, 100], residual=False)
    widths = projected(profile, {"g0": 1.0, "g1": 0.1}, FINE, Limits(macs=int(profile.cost().macs / 1.2)))
    assert widths["g0"] == 100
    assert 75 <= widths["g1"] <= 90


def test_a_limit_above_the_dense_network_keeps_it_whole() -> None:
    profile = _chain([10, 20], residual=False)
    assert projected(profile, {"g0": 0.3, "g1": 0.9}, FINE, Limits(macs=10**9)) == {"g0": 10, "g1": 20}


def test_groups_that_are_not_proposed_stay_whole() -> None:
    profile = _chain([10, 20], residual=False)
    widths = projected(profile, {"g1": 0.5}, FINE, Limits(macs=int(profile.cost().macs / 2)))
    assert set(widths) == {"g1"}


def test_a_sparse_network_keeps_its_bytes_after_the_cut() -> None:
    """What is not zero may all lie in the channels that stay: the limit holds even then."""
    dense = profile_of(zoo("resnet8", DIGIT), DIGIT)
    sparse = dense.with_layers({layer.name: {"density": 0.3} for layer in dense.layers if layer.weight})
    limits = Limits(file_bytes=int(sparse.cost().file_bytes / 1.3))
    ratios = {group.name: 0.7 for group in sparse.slimmable}
    widths = projected(sparse, ratios, FINE, limits)
    assert CLOSE_ENOUGH <= limits.usage(sparse.narrowed(widths).cost()) <= 1
    assert sparse.cost(widths).file_bytes < sparse.narrowed(widths).cost().file_bytes
