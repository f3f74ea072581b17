"""The step as plans use it: space, projection, prediction, pinning, masks by magnitude, JSON, refusals."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from compression.noise import NO_DATA, SOME, TASK
from compression.odd_networks import ODD
from compression.zoo import DIGIT, WHOLE_ZOO, trained_looking, zoo
from pocketpipe.budget import Limits
from pocketpipe.compression.channels import ChannelsStep
from pocketpipe.compression.sparsity import SparsityStep
from pocketpipe.compression.sparsity.layers import left_dense
from pocketpipe.compression.sparsity.protocols import erdos_renyi_kernel, global_magnitude, lamp, uniform
from pocketpipe.compression.sparsity.step import SMALLEST_DENSITY
from pocketpipe.compression.tracing import profile_of
from pocketpipe.compression.weights import bare, laid_on, original_of, weight_of
from pocketpipe.errors import Mistakes, UserError
from pocketpipe.plan import CompressionPlan
from pocketpipe.profile import NetworkProfile
from pocketpipe.task import Preprocessing

PROTOCOLS = ["uniform", "erk", "global", "lamp"]


def _profile() -> NetworkProfile:
    return profile_of(zoo("resnet8", DIGIT), DIGIT).model_copy(update={"file_overhead": 2000})


def _nonzeros(network: nn.Module, profile: NetworkProfile) -> dict[str, int]:
    return {layer.name: int(weight_of(network, layer.name).count_nonzero()) for layer in profile.layers}


def _bytes(nonzeros: dict[str, int], profile: NetworkProfile) -> int:
    """By hand: a bit an element and four bytes a non-zero, or all dense; four bytes a bias."""
    total = profile.file_overhead
    for layer in profile.layers:
        elements = layer.cost(profile.widths()).macs // layer.positions
        biases = layer.cost(profile.widths()).parameters - elements
        total += min(4 * elements, -(-elements // 8) + 4 * nonzeros[layer.name]) + 4 * biases
    return total


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("density", [0.02, 0.1, 0.5, 0.97])
def test_predicted_is_what_is_measured(protocol: Any, density: float) -> None:
    network, profile = zoo("resnet8", DIGIT), _profile()
    step = SparsityStep(density=density, protocol=protocol)
    masked, pinned = CompressionPlan((step,)).carry_out(network, TASK, SOME)
    nonzeros = _nonzeros(masked, profile)
    elements = sum(weight_of(network, layer.name).numel() for layer in profile.layers)
    assert sum(nonzeros.values()) == round(density * elements)
    assert pinned.predict(profile).cost().file_bytes == _bytes(nonzeros, profile)
    assert pinned.predict(profile).cost().file_bytes <= step.predict(profile).cost().file_bytes
    assert pinned.predict(profile).cost().resident_bytes == profile.cost().resident_bytes
    if protocol in ("uniform", "erk"):
        assert pinned.predict(profile) == step.predict(profile)


def test_protocols_stand_for_their_rules() -> None:
    network, profile = trained_looking(zoo("resnet8", DIGIT)), _profile()
    shapes = {layer.name: tuple(weight_of(network, layer.name).shape) for layer in profile.layers}
    weights = {name: weight_of(network, name) for name in shapes}
    expected: dict[Any, dict[str, int]] = {
        "uniform": uniform(shapes, 0.1),
        "erk": erdos_renyi_kernel(shapes, 0.1),
        "global": global_magnitude(weights, 0.1),
        "lamp": lamp(weights, 0.1),
    }
    assert len({tuple(counts.items()) for counts in expected.values()}) == len(PROTOCOLS)
    for protocol, counts in expected.items():
        step = SparsityStep(density=0.1, protocol=protocol).pin(network, TASK, NO_DATA)
        assert _nonzeros(step.apply(network, TASK), profile) == counts


def test_masks_keep_the_largest_and_leave_the_network_alone() -> None:
    network = zoo("resnet8", DIGIT)
    before = copy.deepcopy(network.state_dict())
    step = SparsityStep(density=0.2, protocol="global").pin(network, TASK, NO_DATA)
    masked = step.apply(network, TASK)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    kept, dropped = [], []
    for layer in profile_of(network, DIGIT).layers:
        magnitude = weight_of(network, layer.name).abs()
        stays = weight_of(masked, layer.name) != 0
        kept.append(magnitude[stays].min())
        dropped.append(magnitude[~stays].max())
        assert torch.equal(weight_of(masked, layer.name)[stays], weight_of(network, layer.name)[stays])
        assert torch.equal(original_of(masked, layer.name), weight_of(network, layer.name))
    assert min(kept) > max(dropped)  # over all layers


@pytest.mark.parametrize(("name", "shape"), WHOLE_ZOO)
def test_every_network_of_the_zoo(name: str, shape: tuple[int, ...]) -> None:
    task: Any = type("Task", (), {"input_shape": shape, "preprocessing": Preprocessing()})
    network, profile = zoo(name, shape), profile_of(zoo(name, shape), shape)
    step = SparsityStep(density=0.3, protocol="erk").pin(network, task, NO_DATA)
    masked = step.apply(network, task)
    stays, elements = 0, 0
    for layer in (layer for layer in step.predict(profile).layers if layer.name in profile.products()):
        was, now = weight_of(network, layer.name), weight_of(masked, layer.name)
        count = round(layer.density * was.numel())
        assert int(now.count_nonzero()) == min(count, int(was.count_nonzero()))  # airbench begins with many zeros
        assert torch.equal(now[now != 0], was[now != 0])
        stays, elements = stays + count, elements + was.numel()
    assert stays == round(0.3 * elements)
    assert masked(torch.randn(1, *shape)).isfinite().all()


def test_pinned_layers_and_the_share_of_the_others() -> None:
    network, profile = zoo("resnet8", DIGIT), _profile()
    step = SparsityStep(density=0.1, pinned=("conv1", "lin*"))
    masked, _ = CompressionPlan((step,)).carry_out(network, TASK, SOME)
    nonzeros = _nonzeros(masked, profile)
    elements = {layer.name: weight_of(network, layer.name).numel() for layer in profile.layers}
    assert {name for name in elements if nonzeros[name] == elements[name]} == {"conv1", "linear"}
    assert laid_on(masked, "conv1") == ()
    inner = sum(elements.values()) - elements["conv1"] - elements["linear"]
    assert sum(nonzeros.values()) - elements["conv1"] - elements["linear"] == round(0.1 * inner)


def test_two_of_four_along_input_channels() -> None:
    network = zoo("resnet8", DIGIT)
    masked, pinned = CompressionPlan((SparsityStep(pattern="2:4"),)).carry_out(network, TASK, SOME)
    for layer in ("layer1.0.conv2", "layer3.0.conv1", "linear"):
        groups = (weight_of(masked, layer) != 0).movedim(1, -1).unflatten(-1, (-1, 4))
        assert (groups.sum(-1) == 2).all()
    assert laid_on(masked, "conv1") == ()  # one input channel
    assert pinned.predict(_profile()).cost().file_bytes == _bytes(_nonzeros(masked, _profile()), _profile())


def test_input_channels_of_a_transposed_convolution() -> None:
    factory, shape = ODD["grouped"]
    network = factory().eval()
    task: Any = type("Task", (), {"input_shape": shape, "preprocessing": Preprocessing()})
    masked = SparsityStep(pattern="1:4").pin(network, task, NO_DATA).apply(network, task)
    stays = weight_of(masked, "transposed") != 0  # (12 in, 7 out, 2, 2)
    assert (stays.unflatten(0, (3, 4)).sum(1) == 1).all()
    assert (weight_of(masked, "twice") != 0).all()  # depthwise: one input channel each


def test_a_tied_weight_is_masked_wherever_it_is_used() -> None:
    factory, shape = ODD["tied"]
    task: Any = type("Task", (), {"input_shape": shape})
    network = factory().eval()
    masked = SparsityStep(density=0.2).pin(network, task, NO_DATA).apply(network, task)
    assert int(masked.same.weight.count_nonzero()) == int(masked.again.weight.count_nonzero()) == 20


class Recurrent(nn.Module):
    """Torch's own GRU and attention, an embedding of positions, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.randn(5, 8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.gru = nn.GRU(8, 6, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.place
        return self.head(self.gru(self.attention(x, x, x, need_weights=False)[0])[0][:, -1])


def test_what_stays_dense_is_named() -> None:
    network = Recurrent().eval()
    task: Any = type("Task", (), {"input_shape": (5, 8)})
    profile = profile_of(network, (5, 8))
    assert set(left_dense(profile)) == {"place"}
    pinned = SparsityStep(density=0.25).pin(network, task, NO_DATA)
    assert set(pinned.densities or {}) == {
        "attention.in_proj_weight", "attention.out_proj", "gru.weight_ih_l0", "gru.weight_hh_l0", "head"
    }  # fmt: skip
    masked = pinned.apply(network, task)
    assert int(masked.attention.in_proj_weight.count_nonzero()) == 24 * 8 // 4
    assert masked(torch.randn(2, 5, 8)).shape == (2, 3)
    with pytest.raises(UserError, match=r"densities.place: cannot have a mask: its operator is"):
        SparsityStep(protocol="given", densities={"place": 0.5}).predict(profile)
    with pytest.raises(UserError, match=r"reachable: compression [\d.]+; left dense: place"):
        SparsityStep(density=0.5).project(profile, Limits(file_bytes=100))


class Cells(nn.Module):
    """Torch's own cell, called step by step."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(8, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = x.new_zeros(x.shape[0], 6)
        for step in range(x.shape[1]):
            state = self.cell(x[:, step], state)
        return self.head(state)


def test_cells_have_masks() -> None:
    network = Cells().eval()
    task: Any = type("Task", (), {"input_shape": (5, 8)})
    pinned = SparsityStep(density=0.25).pin(network, task, NO_DATA)
    assert set(pinned.densities or {}) == {"cell.weight_ih", "cell.weight_hh", "head"}
    masked = pinned.apply(network, task)
    assert int(masked.cell.weight_hh.count_nonzero()) == 18 * 6 // 4
    plain = bare(masked)
    x = torch.randn(2, 5, 8)
    assert torch.equal(masked(x), plain(x))
    assert not torch.equal(masked(x), network(x))
    assert profile_of(masked, (5, 8)).groups == profile_of(network, (5, 8)).groups


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("ratio", [1.2, 3.0, 10.0])
def test_projection_comes_as_close_under_the_limit_as_weights_allow(protocol: Any, ratio: float) -> None:
    profile = _profile()
    limits = Limits(file_bytes=int(profile.cost().file_bytes / ratio))
    step = SparsityStep(protocol=protocol).project(profile, limits)
    used = step.predict(profile).cost().file_bytes
    assert limits.file_bytes is not None
    assert limits.file_bytes - 8 <= used <= limits.file_bytes
    pinned = step.pin(zoo("resnet8", DIGIT), TASK, NO_DATA)
    assert limits.keeps(pinned.predict(profile).cost())


def test_given_densities_keep_their_proportions() -> None:
    profile = _profile()
    proposal = {"protocol": "given", "densities/layer3.0.conv1": 0.8, "densities/layer3.0.conv2": 0.4}
    step = SparsityStep().proposed(proposal, profile)
    projected = step.project(profile, Limits(file_bytes=150_000)).densities
    assert projected is not None
    assert projected["layer3.0.conv1"] == pytest.approx(2 * projected["layer3.0.conv2"])
    assert 149_900 < step.project(profile, Limits(file_bytes=150_000)).predict(profile).cost().file_bytes <= 150_000
    assert step.project(profile, Limits(file_bytes=10**9)).densities == {"layer3.0.conv1": 1.0, "layer3.0.conv2": 1.0}


def test_n_of_m_takes_the_largest_n_that_fits() -> None:
    profile = _profile()
    half = SparsityStep(pattern="2:4").predict(profile).cost().file_bytes
    step = SparsityStep(pattern="3:4")
    assert step.project(profile, Limits(file_bytes=half)).pattern == "2:4"
    assert step.project(profile, Limits(file_bytes=half - 1)).pattern == "1:4"
    assert step.project(profile, Limits(file_bytes=half)).density == 0.5


@pytest.mark.parametrize(
    "step",
    [
        SparsityStep(density=0.1),
        SparsityStep(density=0.005),  # less than the search itself would leave
        SparsityStep(density=0.3, protocol="lamp"),
        SparsityStep(pattern="1:4"),
        SparsityStep(protocol="given", densities={"layer3.0.conv1": 0.8, "layer3.0.conv2": 0.4}),
    ],
)
def test_what_the_user_has_set_is_lowered_and_never_raised(step: SparsityStep) -> None:
    profile = _profile()
    as_set = step.predict(profile).cost().file_bytes
    assert step.project(profile, Limits(file_bytes=profile.cost().file_bytes)) == step
    point = {} if not step.space(profile) else {"density": step.density, "protocol": step.protocol}
    searched = step.proposed(point, profile)
    assert searched.project(profile, Limits(file_bytes=profile.cost().file_bytes)).predict(profile) == step.predict(
        profile
    )
    if step.density not in (0.005, 0.25):
        lower = step.project(profile, Limits(file_bytes=as_set - 500))
        assert lower.predict(profile).cost().file_bytes <= as_set - 500
        assert step.asks_for(lower)
        assert not lower.asks_for(step)


def test_macs_cannot_be_kept_by_zeros() -> None:
    profile = _profile()
    macs = profile.cost().macs
    step = SparsityStep(density=0.5)
    assert step.project(profile, Limits(macs=macs)) == step
    with pytest.raises(
        UserError, match=r"MACs are over the limit of [\d,]+, and stay as they are.*put channels or blocks before it"
    ):
        step.project(profile, Limits(macs=macs - 1, file_bytes=10**9))


def test_the_space_and_its_ends() -> None:
    profile = _profile()
    space = SparsityStep().space(profile)
    assert space["density"] == {"_type": "uniform", "_value": [SMALLEST_DENSITY, 1.0]}
    assert space["protocol"]["_value"] == [*PROTOCOLS, "given"]
    assert {key.removeprefix("densities/") for key in space if "/" in key} == {layer.name for layer in profile.layers}
    smallest = dict.fromkeys(space, SMALLEST_DENSITY) | {"protocol": "given"}
    assert SparsityStep().proposed(smallest, profile).predict(profile).layers[3].density == pytest.approx(
        SMALLEST_DENSITY, abs=1e-4
    )
    assert SparsityStep().proposed(smallest | {"protocol": "erk"}, profile) == SparsityStep(
        density=SMALLEST_DENSITY, protocol="erk", schedule="gradual"
    )
    assert SparsityStep(pattern="2:4").space(profile) == {}
    assert set(SparsityStep(protocol="lamp").space(profile)) == {"density", "protocol"}
    inner = SparsityStep(pinned=("conv1", "linear"), schedule="one_shot")
    assert {"densities/conv1", "densities/linear"} & set(inner.space(profile)) == set()
    proposal = inner.proposed(smallest, profile)
    assert set(proposal.densities or {}) == {
        key.removeprefix("densities/") for key in inner.space(profile) if "/" in key
    }
    assert proposal.schedule == "one_shot"
    proposal.predict(profile)
    deep = profile_of(zoo("resnet20", DIGIT), DIGIT)
    assert set(SparsityStep().space(deep)) == {"density", "protocol"}
    assert SparsityStep().space(deep)["protocol"]["_value"] == PROTOCOLS


def test_channels_before_and_after() -> None:
    network, profile = zoo("resnet8", DIGIT), _profile()
    channels = ChannelsStep(widths={"layer3.0.conv1": 20, "conv1": 9})
    sparsity = SparsityStep(density=0.3, protocol="lamp")
    x = torch.randn(4, *DIGIT)
    for steps in ((channels, sparsity), (sparsity, channels)):
        made, pinned = CompressionPlan(steps).carry_out(network, TASK, SOME)
        nonzeros = _nonzeros(made, profile)
        for layer in profile_of(made, DIGIT).layers:
            (mask,) = laid_on(made, layer.name)
            assert mask.mask.shape == weight_of(made, layer.name).shape
            assert not weight_of(made, layer.name)[~mask.mask].any()
        assert _bytes(nonzeros, channels.predict(profile)) <= pinned.predict(profile).cost().file_bytes
        fresh = copy.deepcopy(network)
        for step in pinned.steps:
            fresh = step.apply(fresh, TASK)
        fresh.load_state_dict(made.state_dict())
        assert torch.equal(fresh(x), made(x))


def test_once_more_only_takes_away() -> None:
    network, profile = zoo("resnet8", DIGIT), _profile()
    steps = (SparsityStep(density=0.5), SparsityStep(density=0.2, protocol="global"))
    once, _ = CompressionPlan(steps[:1]).carry_out(network, TASK, SOME)
    twice, pinned = CompressionPlan(steps).carry_out(network, TASK, SOME)
    for layer in profile.layers:
        assert not (weight_of(twice, layer.name)[weight_of(once, layer.name) == 0]).any()
    assert _bytes(_nonzeros(twice, profile), profile) <= pinned.predict(profile).cost().file_bytes


def test_portions_end_where_the_step_does() -> None:
    network, profile = zoo("resnet8", DIGIT), _profile()
    step = SparsityStep(density=0.125, protocol="erk")
    portions = step.in_portions(profile, 3)
    assert [portion.density for portion in portions if isinstance(portion, SparsityStep)] == [0.5, 0.25, 0.125]
    made, _ = CompressionPlan(portions).carry_out(network, TASK, SOME)
    at_once, _ = CompressionPlan((step,)).carry_out(network, TASK, SOME)
    assert _nonzeros(made, profile) == _nonzeros(at_once, profile)
    gradual = SparsityStep(density=0.1, schedule="gradual")
    assert gradual.in_portions(profile, 3) == (gradual,)


def test_layer_by_layer_is_the_same_in_the_end() -> None:
    network, profile = zoo("resnet8", DIGIT), _profile()
    for step in (SparsityStep(density=0.2, protocol="lamp").pin(network, TASK, NO_DATA), SparsityStep(pattern="1:4")):
        parts = step.by_layers(profile, 3)
        assert len(parts) == 3
        made, _ = CompressionPlan(parts).carry_out(network, TASK, SOME)
        at_once, _ = CompressionPlan((step,)).carry_out(network, TASK, SOME)
        for layer in profile.layers:
            assert torch.equal(weight_of(made, layer.name), weight_of(at_once, layer.name))
    gradual = SparsityStep(pattern="1:4", schedule="gradual")
    assert gradual.by_layers(profile, 3) == (gradual,), "its masks close while the whole training runs"
    with pytest.raises(UserError, match="protocol global must be pinned"):
        SparsityStep(density=0.2, protocol="global").by_layers(profile, 3)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"density": 0.0}, "greater than 0"),
        ({"density": 0.5, "pattern": "2:5"}, "pattern 2:5: leave out density"),
        ({"pattern": "4:2"}, "'4:2' is no pattern"),
        ({"pattern": "2:4", "protocol": "erk"}, "pattern 2:4: leave out density and protocol"),
        ({"protocol": "given"}, "protocol given: say densities"),
        ({"density": 0.5, "protocol": "lamb"}, "'uniform', 'erk', 'global', 'lamp' or 'given'"),
        ({"density": 0.5, "schedule": "gradual", "begin": 0.8}, "begin 0.8 must be below end 0.75"),
        ({"density": 0.5, "schedule": "gradual", "regression": "least_squares"}, "use it with schedule one_shot"),
    ],
)
def test_a_plan_by_hand_that_makes_no_sense_is_refused(fields: dict[str, Any], line: str) -> None:
    import json

    with pytest.raises(Mistakes) as refused:
        CompressionPlan.from_json(json.dumps([{"kind": "sparsity", **fields}]))
    assert line in str(refused.value)
    assert len(refused.value.lines) == 1


def test_all_that_does_not_fit_a_network_is_listed() -> None:
    step = SparsityStep(protocol="given", densities={"conv9": 0.5, "linear": 0.5}, pinned=("linear", "nothing*"))
    with pytest.raises(Mistakes) as refused:
        step.pin(zoo("resnet8", DIGIT), TASK, NO_DATA)
    assert [line.split(":")[0] for line in refused.value.lines] == [
        "sparsity.pinned",
        "sparsity.densities.conv9",
        "sparsity.densities.linear",
    ]
    with pytest.raises(UserError, match="the patterns leave no layer to mask"):
        SparsityStep(density=0.5, pinned=("*",)).predict(_profile())


def test_an_open_density_is_no_plan() -> None:
    with pytest.raises(UserError, match="density is still open"):
        SparsityStep(protocol="lamp").pin(zoo("resnet8", DIGIT), TASK, NO_DATA)
    with pytest.raises(UserError, match="density is still open"):
        SparsityStep().predict(_profile())
    projected = SparsityStep(protocol="lamp").project(_profile(), Limits(file_bytes=100_000))
    assert projected.protocol == "lamp"
    assert 0.2 < (projected.density or 0) < 0.4


@pytest.mark.parametrize(
    ("said", "reason"),
    [({"densities": {"conv1": 0.3}}, "say protocol: given with them"), ({"begin": 0.8}, "must be below end 0.75")],
)
def test_what_would_be_passed_over_or_fail_later_is_refused(said: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        SparsityStep(**said)


def test_orders_that_make_no_sense() -> None:
    assert set(SparsityStep.refused_after) == {"quantization", "codebook"}


def test_refitting_comes_nearer_to_the_outputs() -> None:
    """With and without, on the data that it is fitted to."""
    network = zoo("resnet8", DIGIT)
    x = torch.from_numpy(SOME.inputs)
    expected = _nonzeros(SparsityStep(density=0.3).pin(network, TASK, NO_DATA).apply(network, TASK), _profile())
    gaps = []
    for regression in (None, "least_squares"):
        step = SparsityStep(density=0.3, regression=regression)  # type: ignore[arg-type]
        masked, _ = CompressionPlan((step,)).carry_out(network, TASK, SOME)
        masked.load_state_dict({k: v for k, v in network.state_dict().items() if "running" in k}, strict=False)
        gaps.append((masked(x) - network(x)).square().mean().item())
        assert _nonzeros(masked, _profile()) == expected
    assert gaps[1] < 0.5 * gaps[0]


def test_seeds_do_not_matter_because_there_is_no_chance() -> None:
    digests = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        masked, _ = CompressionPlan((SparsityStep(density=0.3, regression="least_squares"),)).carry_out(
            zoo("resnet8", DIGIT), TASK, SOME
        )
        digests.append(np.concatenate([t.numpy().ravel() for t in masked.state_dict().values()]).tobytes())
    assert digests[0] == digests[1]
