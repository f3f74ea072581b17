"""The step as plans use it: runs, budget, what pinning chooses, the network that is left, with channels, refusals."""

from __future__ import annotations

import copy
import random
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from compression.residual_networks import RESIDUAL, Gated, Images, InPlace, slow_but
from compression.zoo import DIGIT, trained_looking, zoo
from pocketpipe.budget import Budget, Limits
from pocketpipe.compression.blocks import BlocksStep
from pocketpipe.compression.blocks.choice import CRITERIA, Chooser, dissimilarity, taylor
from pocketpipe.compression.channels import ChannelsStep
from pocketpipe.compression.sparsity import SparsityStep
from pocketpipe.compression.tracing import profile_of
from pocketpipe.compression.weights import weight_of
from pocketpipe.errors import Mistakes, UserError
from pocketpipe.exporting.cost import cost_of
from pocketpipe.exporting.onnx import export_onnx
from pocketpipe.network import NETWORKS
from pocketpipe.plan import CompressionPlan, MethodChoice, order_mistakes
from pocketpipe.profile import NetworkProfile
from pocketpipe.search.feasibility import reach
from pocketpipe.search.run import search
from pocketpipe.search.settings import SearchSettings
from pocketpipe.search.space import joint_space, point_at, proposed
from pocketpipe.search.store import TrialStore, Tried
from pocketpipe.task import TASKS, Preprocessing, Split, Task
from pocketpipe.tasks.classification import ClassificationTask

DIGITS: Task = TASKS.resolve("digits")(Path())
THREE = ("blocks.0", "blocks.1", "blocks.2")


@cache
def resnet20() -> NetworkProfile:
    """Its profile."""
    return profile_of(zoo("resnet20", DIGIT), DIGIT)


class Noise(ClassificationTask):
    """Random images in random classes."""

    input_shape = (3, 8, 8)
    labels = tuple("abcde")
    preprocessing = Preprocessing()

    def source_digest(self) -> str:
        return "noise"

    def read(self) -> tuple[Split, Split | None]:
        draw = np.random.default_rng(0)
        return Split(
            "noise", draw.normal(size=(300, *self.input_shape)).astype(np.float32), draw.integers(5, size=300)
        ), None


NOISE = Noise()
SOME = NOISE.read()[0]
DIGIT_SPLIT = DIGITS.read()[0]  # type: ignore[attr-defined]


def _three() -> nn.Module:
    """Three blocks, without BatchNorm inside."""
    torch.manual_seed(3)
    return trained_looking(Images(Gated(), Gated(), Gated()))


def _loss_handing_on(network: nn.Module, names: tuple[str, ...], examples: int = 300) -> float:
    """By hooks, and with the formula of cross-entropy; the norm at the start by the statistics of the batches."""
    copied = copy.deepcopy(network)
    copied.norm.train()
    for name in names:
        copied.get_submodule(name).register_forward_hook(lambda _, args, __: args[0])
    total = 0.0
    with torch.no_grad():
        for start in range(0, examples, 256):
            part = slice(start, min(start + 256, examples))
            logs = copied(torch.from_numpy(SOME.inputs[part])).log_softmax(1)
            total -= logs[torch.arange(len(logs)), torch.from_numpy(SOME.targets[part])].sum().item()
    return total / examples


def test_the_space_is_how_many_blocks_of_each_run_stay() -> None:
    assert BlocksStep().space(resnet20()) == {
        "layer1.0": {"_type": "randint", "_value": [0, 4]},
        "layer2.1": {"_type": "randint", "_value": [0, 3]},
        "layer3.1": {"_type": "randint", "_value": [0, 3]},
    }
    step = BlocksStep().proposed({"layer1.0": np.int64(2), "layer3.1": 0, "gone": 1}, resnet20())  # type: ignore[dict-item]
    assert step == BlocksStep(keep={"layer1.0": 2, "layer3.1": 0})
    assert BlocksStep().space(profile_of(zoo("lenet", DIGIT), DIGIT)) == {}


@pytest.mark.parametrize(("name", "shape"), slow_but({"resnet8", "resnet20", "mobilenet_v2"}))
def test_the_predicted_profile_is_that_of_the_network_made(name: str, shape: tuple[int, ...]) -> None:
    """In all fields, whichever blocks of a run go."""
    network, draw = zoo(name, shape), random.Random(name)
    profile = profile_of(network, shape)
    task: Any = type("Shaped", (), {"input_shape": shape})
    keep = {run[0]: draw.randint(0, len(run)) for run in profile.runs}
    removed = tuple(path for run in profile.runs for path in draw.sample(run, len(run) - keep[run[0]]))
    open_step, pinned = BlocksStep(keep=keep), BlocksStep(keep=keep, removed=removed)
    made = profile_of(pinned.apply(network, task), shape)
    assert open_step.predict(profile) == pinned.predict(profile) == BlocksStep(removed=removed).predict(profile) == made


@pytest.mark.parametrize("name", ["resnet8_mlperf_tiny", pytest.param("mobilenet_v2", marks=pytest.mark.slow)])
def test_the_predicted_cost_is_that_of_the_exported_file(name: str) -> None:
    network = zoo(name, DIGIT)
    profile = profile_of(network, DIGIT)
    step = BlocksStep(keep=dict.fromkeys((run[0] for run in profile.runs), 0), criterion="random")
    short = step.pin(network, DIGITS, DIGIT_SPLIT).apply(network, DIGITS)
    predicted, dense_predicted = step.predict(profile).cost(), profile.cost()
    measured, dense = (cost_of(export_onnx(made, DIGIT), "file") for made in (short, network))
    assert predicted.macs == measured.macs < dense.macs
    # MobileNet-v2's ReLU6 has two numbers of its own in the file.
    assert measured.parameters - predicted.parameters == dense.parameters - dense_predicted.parameters
    overhead = dense.file_bytes - dense_predicted.file_bytes
    assert predicted.file_bytes <= measured.file_bytes <= predicted.file_bytes + overhead


def test_all_blocks_out_is_the_smaller_network_of_the_family() -> None:
    """ResNet-20 that keeps the first block of its first stage is ResNet-8."""
    network = zoo("resnet20", DIGIT)
    step = BlocksStep(removed=("layer1.1", "layer1.2", "layer2.1", "layer2.2", "layer3.1", "layer3.2"))
    short = step.apply(network, DIGITS)
    by_hand = NETWORKS.resolve("resnet8")(DIGIT, 10).eval()
    by_hand.load_state_dict(short.state_dict())
    x = torch.randn(4, *DIGIT)
    with torch.no_grad():
        assert torch.equal(short(x), by_hand(x))
    assert profile_of(short, DIGIT).cost() == profile_of(by_hand, DIGIT).cost()


def test_those_that_stay_compute_what_they_did_in_their_order() -> None:
    network = zoo("resnet20", DIGIT)
    short = BlocksStep(removed=("layer1.0", "layer3.1")).apply(network, DIGITS)
    assert torch.equal(short.layer1[1].conv1.weight, network.layer1[2].conv1.weight)
    handing_on = copy.deepcopy(network)
    for block in (handing_on.layer1[0], handing_on.layer3[1]):
        block.register_forward_hook(lambda _, args, __: args[0])
    x = torch.randn(4, *DIGIT)
    with torch.no_grad():
        assert torch.equal(short(x), handing_on(x))


def test_a_plan_is_carried_out_and_replayed_from_its_json() -> None:
    network = zoo("resnet20", DIGIT)
    limits = Limits(macs=int(resnet20().cost().macs / 2))
    step = BlocksStep(keep={"layer1.0": 1}).project(resnet20(), limits)
    short, pinned = CompressionPlan((step,)).carry_out(network, DIGITS, DIGIT_SPLIT)
    assert profile_of(short, DIGIT).cost() == pinned.predict(resnet20()).cost() == step.predict(resnet20()).cost()
    again = CompressionPlan.from_json(pinned.to_json())
    assert again == pinned
    fresh = again.steps[0].apply(NETWORKS.resolve("resnet20")(DIGIT, 10), DIGITS).eval()
    fresh.load_state_dict(short.state_dict())
    x = torch.randn(4, *DIGIT)
    with torch.no_grad():
        assert torch.equal(fresh(x), short.eval()(x))
    plain = pinned.steps[0].apply(network, DIGITS)
    assert not torch.equal(plain.bn1.running_var, short.bn1.running_var)  # carrying out measured it anew


def test_projection_removes_the_fewest_blocks_that_keep_the_limits() -> None:
    """In MACs all blocks of ResNet-20 are alike, so it is a count."""
    block = sum(resnet20().layer(name).cost(resnet20().widths()).macs for name in resnet20().blocks[0].layers)
    dense = resnet20().cost().macs
    for blocks in range(1, 8):
        for over in (0, block // 2):
            limits = Limits(macs=dense - blocks * block + over)
            step = BlocksStep(keep={"layer1.0": 1, "layer2.1": 2}).project(resnet20(), limits)
            assert sum(step.keep.values()) == 7 - blocks


def test_projection_goes_by_way_of_the_proposal() -> None:
    block = resnet20().cost().macs - resnet20().without(["layer1.0"]).cost().macs
    proposal = BlocksStep(keep={"layer1.0": 0, "layer2.1": 2, "layer3.1": 1})
    kept = {n: proposal.project(resnet20(), Limits(macs=resnet20().cost().macs - n * block)).keep for n in range(8)}
    assert kept[4] == proposal.keep
    assert kept[2] in ({"layer1.0": 1, "layer2.1": 2, "layer3.1": 2}, {"layer1.0": 2, "layer2.1": 2, "layer3.1": 1})
    assert kept[7] == {"layer1.0": 0, "layer2.1": 0, "layer3.1": 0}


def test_blocks_that_a_large_one_made_up_for_come_back() -> None:
    """In MobileNet-v2 they have very different sizes: no block could come back without breaking the limits."""
    profile = profile_of(zoo("mobilenet_v2", DIGIT), DIGIT)
    for share in (0.9, 0.7, 0.55):
        limits = Limits(file_bytes=int(profile.cost().file_bytes * share))
        step = BlocksStep().project(profile, limits)
        assert limits.keeps(step.predict(profile).cost())
        for run in profile.runs:
            if step.keep[run[0]] < len(run):
                more = step.model_copy(update={"keep": {**step.keep, run[0]: step.keep[run[0]] + 1}})
                assert not limits.keeps(more.predict(profile).cost())


def test_the_smallest_is_without_blocks_and_out_of_reach_is_said() -> None:
    smallest = (
        BlocksStep().proposed(dict.fromkeys(BlocksStep().space(resnet20()), 0), resnet20()).predict(resnet20()).cost()
    )
    assert sum(BlocksStep().project(resnet20(), Limits(macs=smallest.macs)).keep.values()) == 0
    with pytest.raises(UserError, match=r"without any block .* reachable: speedup \d\.\d+, compression \d\.\d+"):
        BlocksStep().project(resnet20(), Limits(macs=smallest.macs - 1))


def test_greedy_by_loss_is_brute_force_one_block_at_a_time() -> None:
    network = _three()
    losses = {(name,): _loss_handing_on(network, (name,)) for name in THREE}
    first = min(losses, key=lambda names: losses[names])[0]
    pairs = {(first, name): _loss_handing_on(network, (first, name)) for name in THREE if name != first}
    second = min(pairs, key=lambda names: pairs[names])[1]
    assert BlocksStep.cheapest(network, NOISE, SOME, 2).removed == (first, second)
    assert BlocksStep(keep={"blocks.0": 1}).pin(network, NOISE, SOME).removed == (first, second)
    assert max(losses.values()) - min(losses.values()) > 0.01  # or there is nothing to choose


class Counting(Noise):
    """Notes of how many examples each loss is."""

    def __init__(self, asked: list[int]) -> None:
        super().__init__()
        self._asked = asked

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor, *, smoothing: float = 0.0) -> torch.Tensor:
        self._asked.append(len(outputs))
        return super().loss(outputs, targets, smoothing=smoothing)


def test_a_second_look_measures_only_what_is_new() -> None:
    network, asked = _three(), list[int]()
    counting = Counting(asked)
    BlocksStep.cheapest(network, counting, SOME, 1, examples=100)
    assert asked == [100] * 3
    two = BlocksStep.cheapest(network, counting, SOME, 2, examples=100)
    assert len(asked) == 3 + 2
    assert two.removed == BlocksStep.cheapest(_three(), counting, SOME, 2, examples=100).removed
    with torch.no_grad():
        network.head.weight.mul_(2)
    asked.clear()
    BlocksStep.cheapest(network, counting, SOME, 1, examples=100)
    assert asked == [100] * 3  # other weights, other losses


def test_informed_looks_no_further_than_the_limits_ask() -> None:
    network, asked = _three(), list[int]()
    counting = Counting(asked)
    profile = profile_of(network, NOISE.input_shape)
    one_less = Limits(macs=profile.cost().macs - 1)
    BlocksStep(examples=100).informed(network, counting, SOME, profile, one_less)
    assert asked == [100] * 3, "for the first of three; two more for the second"


def test_informed_keeps_as_many_of_the_best_blocks_as_fit() -> None:
    """Against the greedy order, cut where the limits are first kept."""
    network = _three()
    profile = profile_of(network, NOISE.input_shape)
    limits = Limits(macs=profile.cost().macs * 7 // 10)
    (point,) = BlocksStep().informed(network, NOISE, SOME, profile, limits)
    gone = len(THREE) - sum(point.values())
    assert gone > 0
    by_count = [BlocksStep.cheapest(network, NOISE, SOME, count) for count in (gone, gone - 1)]
    assert [limits.keeps(step.predict(profile).cost()) for step in by_count] == [True, False]
    assert point == by_count[0].keep
    assert BlocksStep().informed(network, NOISE, SOME, profile, Limits(macs=1)) == ()


def test_a_run_gives_no_more_blocks_than_it_was_told_to() -> None:
    network = zoo("resnet20", DIGIT)
    keep = {"layer1.0": 3, "layer2.1": 1, "layer3.1": 0}
    for criterion in CRITERIA:
        removed = BlocksStep(keep=keep, criterion=criterion).pin(network, DIGITS, DIGIT_SPLIT).removed
        assert removed is not None
        assert len(removed) == len({*removed}) == 3
        assert {*removed} > {"layer3.1", "layer3.2"}
        assert sum(path.startswith("layer2") for path in removed) == 1


@pytest.mark.parametrize("criterion", ["loss", "taylor", "similarity"])
def test_a_block_that_adds_nothing_goes_first(criterion: Any) -> None:
    network = copy.deepcopy(zoo("resnet20", DIGIT))
    with torch.no_grad():
        network.layer2[2].bn2.weight.zero_()
        network.layer2[2].bn2.bias.zero_()
    step = BlocksStep.cheapest(network, DIGITS, DIGIT_SPLIT, 3, criterion=criterion)
    if criterion == "loss":  # another one may even help a network that was never trained
        without = Chooser(network, DIGITS, DIGIT_SPLIT, 512, 0)
        assert without.order("loss", {("layer2.2",): 1}, 1) == ("layer2.2",)
    else:
        assert step.removed is not None
        assert step.removed[0] == "layer2.2"


def test_large_images_come_few_at_once() -> None:
    large = Split("large", np.zeros((70, 3, 512, 512), np.uint8), np.zeros(70, np.int64))
    task = Noise()
    task.input_shape = (3, 512, 512)
    batches = list(Chooser(nn.Linear(1, 1), task, large, 70, 0)._batches())
    assert [(len(inputs), len(wanted)) for inputs, wanted in batches] == [(24, 24), (23, 23), (23, 23)]


def test_no_batch_is_left_with_one_example() -> None:
    """BatchNorm goes by each batch's statistics, and one example of one pixel has none."""
    split = Split("257", np.zeros((257, 1, 8, 8), np.uint8), np.zeros(257, np.int64))
    assert [len(inputs) for inputs, _ in Chooser(nn.Linear(1, 1), Noise(), split, 300, 0)._batches()] == [129, 128]


def test_taylor_is_the_slope_in_what_a_block_adds() -> None:
    """By differences: a factor before the last convolution and its bias is a factor before all that the block adds."""
    network = _three()
    x, target = torch.from_numpy(SOME.inputs[:1]), torch.from_numpy(SOME.targets[:1])
    found = taylor(copy.deepcopy(network), THREE, iter([(x, target)]), NOISE)
    for name in THREE:
        losses = []
        for factor in (0.999, 1.001):
            scaled = copy.deepcopy(network).double()
            with torch.no_grad():
                block = scaled.get_submodule(name)
                block.register_forward_hook(lambda _, args, out, factor=factor: args[0] + factor * (out - args[0]))
                losses.append(nn.functional.cross_entropy(scaled(x.double()), target).item())
        assert found[name] == pytest.approx(abs(losses[1] - losses[0]) / 0.002, rel=1e-3)


@pytest.mark.parametrize("block", [Gated, InPlace])
def test_dissimilarity_is_one_minus_the_cosine(block: type[nn.Module]) -> None:
    network = trained_looking(Images(block(), block(), block()))
    batches = [
        (torch.from_numpy(SOME.inputs[:5]), torch.zeros(5)),
        (torch.from_numpy(SOME.inputs[5:7]), torch.zeros(2)),
    ]
    found = dissimilarity(network, THREE, iter(batches))
    with torch.no_grad():
        values = [network.start(network.norm(network.stem(torch.from_numpy(SOME.inputs[:7]))))]
        for part in network.blocks:
            values.append(part(values[-1].clone()))
    for name, before, after in zip(THREE, values[:-1], values[1:], strict=True):
        a, b = before.flatten(1).numpy(), after.flatten(1).numpy()
        cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        assert found[name] == pytest.approx(1 - cosines.mean(), abs=1e-5)


def test_last_and_random() -> None:
    network = zoo("resnet20", DIGIT)
    assert BlocksStep.cheapest(network, DIGITS, DIGIT_SPLIT, 3, criterion="last").removed == (
        "layer3.2",
        "layer3.1",
        "layer2.2",
    )
    draws = [
        BlocksStep.cheapest(network, DIGITS, DIGIT_SPLIT, 4, criterion="random", seed=s).removed for s in (0, 0, 1)
    ]
    assert draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize("criterion", CRITERIA)
def test_pinning_repeats_and_leaves_the_network_as_it_is(criterion: Any) -> None:
    network = copy.deepcopy(zoo("resnet20", DIGIT))
    network.layer1.train()
    before, modes = copy.deepcopy(network.state_dict()), [module.training for module in network.modules()]
    step = BlocksStep(keep={"layer1.0": 2}, criterion=criterion, examples=64)
    assert step.pin(network, DIGITS, DIGIT_SPLIT) == step.pin(copy.deepcopy(network), DIGITS, DIGIT_SPLIT)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert modes == [module.training for module in network.modules()]
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_portions_lead_to_the_whole() -> None:
    step = BlocksStep(keep={"layer1.0": 0, "layer2.1": 1}, criterion="last")
    parts = step.in_portions(resnet20(), 2)
    assert [part.keep for part in parts] == [{"layer1.0": 2}, {"layer1.0": 0, "layer2.1": 1}]  # type: ignore[attr-defined]
    assert CompressionPlan(parts).predict(resnet20()) == step.predict(resnet20())
    pinned = step.pin(zoo("resnet20", DIGIT), DIGITS, DIGIT_SPLIT)
    assert pinned.in_portions(resnet20(), 1) == (pinned,)
    short, _ = CompressionPlan(pinned.in_portions(resnet20(), 3)).carry_out(zoo("resnet20", DIGIT), DIGITS, DIGIT_SPLIT)
    assert profile_of(short, DIGIT) == step.predict(resnet20())


def test_portions_lead_to_blocks_that_are_open_again_where_masks_made_them_differ() -> None:
    """Which block goes decides what is stored; the parts choose anew, so they promise the densest of the run."""
    densities = {layer.name: 0.1 for layer in resnet20().layers if layer.name.startswith(("layer1.0.", "layer2.1."))}
    sparse = SparsityStep(protocol="given", densities=densities).predict(resnet20())
    pinned = BlocksStep(keep={"layer1.0": 1}, removed=("layer1.1", "layer1.2"))
    parts = pinned.in_portions(sparse, 2)
    reached, asked = CompressionPlan(parts).predict(sparse).cost(), pinned.predict(sparse).cost()
    assert reached.file_bytes > asked.file_bytes
    assert reached == pinned.reopened(sparse).predict(sparse).cost()
    assert pinned.predict(sparse).layer("layer2.1.conv1").density == sparse.layer("layer2.1.conv1").density


def test_layer_by_layer_is_one_block_after_the_other_from_the_front() -> None:
    step = BlocksStep(keep={"layer1.0": 1, "layer2.1": 0, "layer3.1": 1}, criterion="last")
    one, two = step.by_layers(resnet20(), 2), step.by_layers(resnet20(), 3)
    assert [part.keep for part in one] == [  # type: ignore[attr-defined]
        {"layer1.0": 2},
        {"layer1.0": 1},
        {"layer2.1": 1},
        {"layer3.1": 1},
        {"layer2.1": 0},  # a run is used up last: until then it has its name
    ]
    assert len(two) == 3
    for parts in (one, two):
        assert CompressionPlan(parts).predict(resnet20()) == step.predict(resnet20())


def test_after_channels_blocks_of_other_widths_are_runs_of_their_own() -> None:
    network = zoo("resnet20", DIGIT)
    thin = (
        ChannelsStep(widths={"layer1.1.conv1": 4, "conv1": 10}).pin(network, DIGITS, DIGIT_SPLIT).apply(network, DIGITS)
    )
    profile = profile_of(thin, DIGIT)
    assert [run for run in profile.runs if run[0].startswith("layer1")] == [("layer1.0",), ("layer1.1",), ("layer1.2",)]
    step = BlocksStep(removed=("layer1.1", "layer2.2"))
    assert profile_of(step.apply(thin, DIGITS), DIGIT) == step.predict(profile)


def test_blocks_and_then_channels_on_one_budget(tmp_path: Path) -> None:
    """The tuner varies both; what is made costs what was predicted, whichever blocks pinning took."""
    network = zoo("resnet20", DIGIT)
    limits, made = Budget(speedup=4.0).limits(resnet20().cost()), []

    def try_plan(plan: CompressionPlan) -> Tried:
        short, pinned = plan.carry_out(network, DIGITS, DIGIT_SPLIT)
        cost = profile_of(short, DIGIT).cost()
        assert cost.macs == pinned.predict(resnet20()).cost().macs == plan.predict(resnet20()).cost().macs
        made.append(sum(plan.steps[0].keep.values()))  # type: ignore[attr-defined]
        return Tried(pinned, score=-abs(made[-1] - 4))

    cheap = BlocksStep(criterion="similarity", examples=32)  # one look
    trials = search(
        resnet20(), limits, [cheap, ChannelsStep()], try_plan, SearchSettings(trials=4, controls=1, ladder=()), seed=0,
        store=TrialStore(tmp_path),
    )  # fmt: skip
    on_budget = [trial for trial in trials if trial.origin != "ladder"]
    assert len(on_budget) >= 5
    assert all(limits.keeps(trial.cost) for trial in on_budget)
    assert np.mean([limits.usage(trial.cost) for trial in on_budget]) > 0.95
    assert len({*made}) > 2


@pytest.mark.parametrize(
    "method",
    [
        {"channels": {"pinned": ["layer1.*", "layer2.[12].conv1"]}},
        {"quantization": {"bits": {"layer1.1.conv1": 4}}},
        {"codebook": {"layers": {"layer1.1.conv1": 4, "conv1": 3}}},
        {"codebook": {"pinned": ["layer1.1.*"]}},
        {"sparsity": {"protocol": "given", "densities": {"layer1.1.conv1": 0.5, "conv1": 0.5}}},
        {"sparsity": {"pinned": ["*.2.conv1"], "density": 0.5}},
    ],
)
def test_what_is_said_of_layers_that_went_with_their_block_is_without_effect(method: dict[str, Any]) -> None:
    steps = [BlocksStep(), MethodChoice.model_validate(method).step()]
    assert reach(resnet20(), steps, Budget(speedup=1.0)).smallest.macs < resnet20().cost().macs
    none = BlocksStep(keep={run[0]: 0 for run in resnet20().runs}, criterion="last")
    after = none.predict(resnet20())
    plan = CompressionPlan((none, proposed(steps[1], point_at(joint_space([steps[1]], after), 1.0), after)))
    made, pinned = plan.carry_out(zoo("resnet20", DIGIT), DIGITS, DIGIT_SPLIT)
    assert made.eval()(torch.zeros(1, *DIGIT)).shape == (1, 10)
    assert pinned.predict(resnet20()).cost().macs == none.predict(resnet20()).cost().macs or "channels" in method


@pytest.mark.parametrize("method", [{"channels": {"pinned": ["layer1.1.conv7"]}},
                                    {"quantization": {"bits": {"layer1.1.conv7": 4}}}])  # fmt: skip
def test_names_that_no_layer_of_the_whole_network_has_are_refused_before_blocks_go(method: dict[str, Any]) -> None:
    with pytest.raises(Mistakes, match=r"layer1\.1\.conv7"):
        reach(resnet20(), [BlocksStep(), MethodChoice.model_validate(method).step()], Budget(speedup=1.0))


def test_orders_that_make_no_sense() -> None:
    assert set(BlocksStep.refused_after) == {"quantization", "codebook"}
    assert not order_mistakes([BlocksStep, ChannelsStep, BlocksStep], where="plan")


@pytest.mark.parametrize(
    ("step", "line"),
    [
        (
            BlocksStep(keep={"layer9.0": 1}),
            "blocks.keep.layer9.0: no run of blocks begins there; runs: layer1.0 (3 blocks)",
        ),
        (BlocksStep(keep={"layer1.0": 4}), "blocks.keep.layer1.0: 4 of 3 blocks"),
        (
            BlocksStep(keep={"layer1.0": 1}, removed=("layer1.1",)),
            "blocks.keep.layer1.0: 1, but blocks.removed leaves 2",
        ),
        (BlocksStep(removed=("layer2.0",)), "blocks.removed: 'layer2.0' cannot be taken out; runs: "),
        (BlocksStep(removed=("layer2.1", "layer2.1")), "blocks.removed: a block is named twice"),
    ],
)
def test_what_does_not_fit_is_named(step: BlocksStep, line: str) -> None:
    for use in (lambda: step.predict(resnet20()), lambda: step.pin(zoo("resnet20", DIGIT), DIGITS, DIGIT_SPLIT)):
        with pytest.raises(Mistakes) as refused:
            use()
        assert str(refused.value).startswith(line)


def test_a_network_without_blocks_says_so() -> None:
    with pytest.raises(Mistakes, match="runs: none in this network"):
        BlocksStep(keep={"a": 1}).predict(profile_of(zoo("lenet", DIGIT), DIGIT))
    with pytest.raises(UserError, match="8 blocks are to go, but only 7"):
        BlocksStep.cheapest(zoo("resnet20", DIGIT), DIGITS, DIGIT_SPLIT, 8)


def test_a_plan_by_hand_with_wrong_values_is_refused() -> None:
    text = '[{"kind": "blocks", "keep": {"layer1.0": -1}, "criterion": "first"}]'
    with pytest.raises(Mistakes) as refused:
        CompressionPlan.from_json(text)
    assert len(refused.value.lines) == 2


@pytest.mark.parametrize("name", ["torch's own encoder", "layers of a Transformer"])
def test_layers_of_a_transformer_go(name: str) -> None:
    factory, shape, runs = RESIDUAL[name]
    network = trained_looking(factory())
    task: Any = type("Shaped", (), {"input_shape": shape})
    short = BlocksStep(removed=(runs[0][0],)).apply(network, task)
    assert short(torch.randn(2, *shape)).shape == (2, 5)
    assert (
        profile_of(short, shape).cost().macs
        == BlocksStep(keep={runs[0][0]: len(runs[0]) - 1}).predict(profile_of(network, shape)).cost().macs
    )


@pytest.mark.parametrize(
    ("removed", "density"), [(("layer1.0",), 1.0), (("layer1.1",), 0.1), (None, 1.0)], ids=["sparse", "dense", "open"]
)
def test_what_a_mask_left_in_a_block_stays_with_it(removed: tuple[str, ...] | None, density: float) -> None:
    """The first block is sparse, the others are not: which one goes decides about the weights that stay."""
    densities = {layer.name: 0.1 for layer in resnet20().layers if layer.name.startswith("layer1.0.")}
    blocks = BlocksStep(keep={"layer1.0": 2}, removed=removed, criterion="last")
    plan = CompressionPlan((SparsityStep(protocol="given", densities=densities), blocks))
    promised = plan.predict(resnet20())
    assert promised.layer("layer1.0.conv1").density == pytest.approx(density, abs=0.01)
    made, _ = plan.carry_out(zoo("resnet20", DIGIT), DIGITS, DIGIT_SPLIT)
    for layer in promised.layers:
        weight = weight_of(made, layer.name)
        assert int(weight.count_nonzero()) <= round(layer.density * weight.numel())
