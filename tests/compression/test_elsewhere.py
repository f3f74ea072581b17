"""Methods where the network is: on a device that is not the CPU they make the same of it."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest

from compression.zoo import DIGIT, zoo
from elsewhere import DEVICE, There, elsewhere
from own.steps import Evenly, Rounded
from pocketpipe.budget import Budget
from pocketpipe.compression.blocks import BlocksStep
from pocketpipe.compression.channels import ChannelsStep
from pocketpipe.compression.codebook import CodebookStep
from pocketpipe.compression.quantization import QuantizationStep
from pocketpipe.compression.sparsity import SparsityStep
from pocketpipe.compression.tracing import profile_of
from pocketpipe.plan import CompressionPlan, Step
from pocketpipe.task import TaskChoice
from pocketpipe.training.inference import predict

HALVES = {group.name: max(1, group.channels // 2) for group in profile_of(zoo("resnet8", DIGIT), DIGIT).slimmable}
FEWER = Budget(speedup=1.3)


def halved(criterion: str) -> tuple[Step, ...]:
    return (ChannelsStep.model_validate({"widths": HALVES, "criterion": criterion}),)


def without_a_block(criterion: str) -> tuple[Step, ...]:
    profile = profile_of(zoo("resnet8", DIGIT), DIGIT)
    step = BlocksStep.model_validate({"criterion": criterion})
    return (step.project(profile, FEWER.limits(profile.cost())),)


CASES: dict[str, tuple[Step, ...]] = {
    "channels by size": halved("l1"),
    "channels by distance": halved("fpgm"),
    "channels by gradients": halved("taylor"),
    "channels by lasso": halved("lasso"),
    "channels by discrimination": halved("dcp"),
    "blocks by loss": without_a_block("loss"),
    "masks refitted": (SparsityStep(density=0.3, regression="least_squares"),),
    "codebook": (CodebookStep(bits=3),),
    "steps of a user's own": (Evenly(widths={"layer1.0.conv1": 8}), Rounded()),
    "eight bits": (QuantizationStep(examples=64, bias_correction="empirical"),),
    "four bits": (QuantizationStep(examples=64, weight_bits=4, activation_bits=4),),
    "adaround": (QuantizationStep(examples=64, weight_bits=4, rounding="adaround"),),
    "equalized": (QuantizationStep(examples=64, equalization="cross_layer", batchnorm="folded"),),
    "all together": (
        ChannelsStep(widths=HALVES),
        SparsityStep(density=0.5),
        CodebookStep(bits=4, grid="int8"),
        QuantizationStep(examples=64),
    ),
}


SLOW = ("adaround", "all together")


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow) if case in SLOW else case for case in CASES]
)
def test_every_method_runs_where_the_network_is(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task = TaskChoice(name="digits").build(Path("data"))
    splits, _ = task.load(seed=0, holdout=None)
    network, plan, inputs = zoo("resnet8", DIGIT), CompressionPlan(CASES[case]), splits.val.inputs[:64]
    expected, pinned = plan.carry_out(network, task, splits.train)
    answers = predict(expected.eval(), task, inputs)
    with elsewhere(monkeypatch):
        there = copy.deepcopy(network).to(DEVICE)
        found, pinned_there = plan.carry_out(there, task, splits.train)
        assert all(isinstance(each, There) for each in (*found.parameters(), *found.buffers()) if each.dim() > 0)
        assert np.allclose(predict(found.eval(), task, inputs), answers, atol=1e-4)
    assert pinned_there == pinned


@pytest.mark.parametrize("step", [ChannelsStep(), BlocksStep()], ids=lambda step: step.kind)
def test_what_weights_suggest_is_the_same_there(step: Step, monkeypatch: pytest.MonkeyPatch) -> None:
    task = TaskChoice(name="digits").build(Path("data"))
    splits, _ = task.load(seed=0, holdout=None)
    network = zoo("resnet8", DIGIT)
    profile = profile_of(network, DIGIT)
    limits = FEWER.limits(profile.cost())
    expected = step.informed(network, task, splits.train, profile, limits)
    with elsewhere(monkeypatch):
        there = copy.deepcopy(network).to(DEVICE)
        assert step.informed(there, task, splits.train, profile, limits) == expected
