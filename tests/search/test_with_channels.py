"""The search with the real channels step on networks of the zoo; only the score is made up."""

import numpy as np
import pytest
from torch import nn

from compression.zoo import DIGIT, SMALL, zoo
from pocketpipe.budget import Budget, Limits
from pocketpipe.compression.tracing import profile_of
from pocketpipe.errors import UserError
from pocketpipe.plan import STEPS, CompressionPlan
from pocketpipe.profile import NetworkProfile
from pocketpipe.search.feasibility import reach, refuse_impossible
from pocketpipe.search.proposal import on_budget, uniform_parameters
from pocketpipe.search.run import search
from pocketpipe.search.settings import SearchSettings
from pocketpipe.search.space import as_proposed, joint_space
from pocketpipe.search.store import TrialStore, Tried


@pytest.fixture(scope="module", params=["resnet8", "resnet20"])
def profile(request: pytest.FixtureRequest) -> NetworkProfile:
    return profile_of(zoo(request.param, SMALL), SMALL)


def narrowest_share(profile: NetworkProfile, plan: CompressionPlan) -> float:
    """A score with an optimum: the smallest share kept in any group."""
    widths = profile.widths(plan.steps[0].model_dump()["widths"])
    return min(widths[group.name] / group.channels for group in profile.slimmable)


@pytest.mark.parametrize(
    ("budget", "count"), [({"speedup": 2.0}, 8), ({"speedup": 2.5, "compression": 2.0}, 24), ({"compression": 3.0}, 8)]
)
def test_every_trial_is_on_the_budget(tmp_path, profile, budget, count):
    channels = STEPS.resolve("channels")()
    limits = Budget(**budget).limits(profile.cost())

    def try_plan(plan: CompressionPlan) -> Tried:
        return Tried(plan, narrowest_share(profile, plan))

    settings = SearchSettings(trials=count)
    trials = search(profile, limits, [channels], try_plan, settings, seed=0, store=TrialStore(tmp_path))
    on_budget = [trial for trial in trials if trial.origin != "ladder"]
    assert len(on_budget) == 1 + count + 3
    for trial in on_budget:
        assert limits.keeps(trial.cost)
        assert limits.usage(trial.cost) >= 0.98
    # By this score nothing beats equal shares: what is called uniform must be just that.
    assert trials[0].score >= max(trial.score for trial in on_budget) - 1 / 16


def test_plans_fit_the_memory_of_a_device(profile):
    """Working memory is that of the largest layers: these get thin, and the others need not."""
    methods = [STEPS.resolve("channels")(multiple=2), STEPS.resolve("quantization")()]
    limits = Budget(ram_kb={"cortex_m": 40}).limits(profile.cost())
    plan = on_budget(methods, uniform_parameters(methods, profile, limits), profile, limits)
    kept = plan.predict(profile)
    assert limits.keeps(kept.cost())
    wide = {group.name: group.channels for group in kept.groups}
    assert wide["conv1"] < 16
    assert not limits.keeps(kept.cost({**wide, "conv1": wide["conv1"] + 2}))


def _drawn_points(methods, profile, count):
    random = np.random.default_rng(0)
    space = joint_space(methods, profile)
    return [{key: _drawn(entry, random) for key, entry in space.items()} for _ in range(count)]


@pytest.mark.parametrize("limit", [20, 12])
def test_whatever_is_proposed_is_brought_into_the_memory_of_a_device(limit):
    """RAM comes in lumps, of all of a layer's positions: a share that shrinks by less than one leads nowhere."""
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip
    profile = profile_of(network, (3, 32, 32))
    methods = [_step("channels"), _step("quantization")]
    limits = Budget(ram_kb={"cortex_m": limit}).limits(profile.cost())
    points = _drawn_points(methods, profile, 20)
    everything = {key: 1.0 if key.startswith("channels/") else value for key, value in points[0].items()}
    for point in (everything, *points):
        cost = on_budget(methods, point, profile, limits).predict(profile).cost()
        assert limits.keeps(cost)
        assert limits.usage(cost) > 0.85


@pytest.mark.parametrize("before", [[], [STEPS.resolve("channels")()]], ids=["codebook", "channels, codebook"])
def test_plans_fit_the_flash_of_a_device(profile, before):
    """Tables of integers save flash only together with the quantization behind them."""
    methods = [*before, STEPS.resolve("codebook")(grid="int8"), STEPS.resolve("quantization")(weight_bits=8)]
    whole = methods[-1].predict(profile).cost().flash_bytes
    limits = Limits(flash_bytes=int(whole * 0.6))
    for point in _drawn_points(methods, profile, 10):
        cost = on_budget(methods, point, profile, limits).predict(profile).cost()
        assert limits.keeps(cost)
        assert limits.usage(cost) > 0.8  # indices have 1, 2, 4 or 8 bits on a device


def test_flash_of_which_bits_are_no_finer_is_filled_layer_by_layer():
    """3 bits take 4 on a device, and 5 take 8: what that costs nothing is had."""
    profile = profile_of(zoo("resnet8", SMALL), SMALL)
    methods = [_step("codebook", grid="int8"), _step("quantization", weight_bits=8)]
    limits = Limits(flash_bytes=int(methods[-1].predict(profile).cost().flash_bytes * 0.6))
    for point in _drawn_points(methods, profile, 10):
        plan = on_budget(methods, point, profile, limits)
        assert {*plan.steps[0].layers.values()} <= {1, 2, 4, 8}
        assert limits.keeps(plan.predict(profile).cost())
        assert limits.usage(plan.predict(profile).cost()) > 0.95


def _step(name, **options):
    return STEPS.resolve(name)(**options)


TOGETHER = [
    # What is left out of ResNet-20 comes in whole blocks: above and below the limit in turn.
    ("resnet20", ["blocks", "quantization"], {"speedup": 2.0}, 0.8),
    # Blocks of other widths are runs of their own; of other densities they are not.
    ("resnet20", ["channels", "blocks"], {"speedup": 2.0}, 0.8),
    ("resnet20", ["sparsity", "blocks"], {"speedup": 2.0, "compression": 4.0}, 0.6),
    # MACs are not sparsity's to save, and it comes first.
    ("resnet8", ["sparsity", "channels"], {"speedup": 5.0, "compression": 8.0}, 0.97),
    # Codebooks have bits by layer once blocks have left few of them.
    ("resnet20", ["blocks", "codebook", "quantization"], {"flash_kb": {"cortex_m": 64}}, 0.6),
    ("resnet20", ["blocks", "codebook", "quantization"], {"speedup": 2.0, "flash_kb": {"cortex_m": 64}}, 0.8),
]


@pytest.mark.parametrize(("name", "methods", "budget", "used"), TOGETHER)
def test_methods_meet_a_budget_together(name, methods, budget, used):
    profile = profile_of(zoo(name, DIGIT), DIGIT)
    options = {"codebook": {"grid": "int8"}, "quantization": {"weight_bits": 8}}
    steps = [_step(method, **options.get(method, {})) for method in methods]
    limits = Budget(**budget).limits(profile.cost())
    points = [uniform_parameters(steps, profile, limits), *_drawn_points(steps, profile, 5)]
    costs = [on_budget(steps, point, profile, limits).predict(profile).cost() for point in points]
    assert all(limits.keeps(cost) for cost in costs)
    assert np.mean([limits.usage(cost) for cost in costs]) > used


@pytest.mark.parametrize("rest", [["codebook"], ["sparsity"], ["codebook", "quantization"]], ids=str)
def test_the_uniform_plan_gives_up_nothing_that_saves_nothing(profile, rest):
    """Bits and zeros change no MACs: all of them go to channels."""
    methods = [_step(name) for name in ("channels", *rest)]
    limits = Budget(speedup=2.0).limits(profile.cost())
    found = uniform_parameters(methods, profile, limits)
    assert {**found, **uniform_parameters(methods[:1], profile, limits)} == found
    largest = {"codebook": 8, "sparsity": 1.0, "quantization": 8}
    bits = {value for key, value in found.items() if not key.startswith("channels/") and not isinstance(value, str)}
    assert bits == {largest[name] for name in rest}
    both = Budget(speedup=2.0, compression=8.0).limits(profile.cost())
    assert {**found, **uniform_parameters(methods, profile, both)} != found


def test_bits_that_a_grid_leaves_open_to_nobody_are_not_searched(profile):
    """Behind a codebook of integers; layers that it leaves alone keep theirs, under their own names."""
    named = next(layer.name for layer in profile.layers if layer.name.startswith("layer2"))
    methods = [_step("codebook", grid="int8", pinned=(named,)), _step("quantization")]
    keys = [key for key in joint_space(methods, profile) if key.startswith("quantization/")]
    assert keys == [f"quantization/{named}"]
    point = uniform_parameters(methods, profile, Limits(macs=profile.cost().macs)) | {keys[0]: 3}
    plan = as_proposed(methods, point, profile)
    assert plan.steps[1].bits == {named: 3}


def test_the_uniform_plan_takes_the_first_of_what_has_only_names(profile):
    limits = Budget(compression=4.0).limits(profile.cost())
    assert uniform_parameters([_step("sparsity")], profile, limits)["sparsity/protocol"] == "uniform"


def _drawn(entry, random):
    match entry["_type"]:
        case "choice":
            return entry["_value"][random.integers(len(entry["_value"]))]
        case "randint":
            return int(random.integers(*entry["_value"]))
    return random.uniform(*entry["_value"])


def test_the_tightest_of_both_requirements_together_can_be_projected(profile):
    channels = STEPS.resolve("channels")()
    with pytest.raises(UserError, match=r"speedup: 400x asked, 1\.\.\d+(\.\d+)?x reachable with methods \[channels\]"):
        refuse_impossible(profile, [channels], Budget(speedup=400))
    tightest = {entry.requirement: entry.tightest for entry in reach(profile, [channels], Budget(speedup=1)).ranges}
    limits = Budget(**tightest).limits(profile.cost())
    everything = channels.proposed({group.name: 1.0 for group in profile.slimmable}, profile)
    assert limits.keeps(everything.project(profile, limits).predict(profile).cost())
