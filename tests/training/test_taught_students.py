"""Distillation behind every method: of each student the loss is finite, and its gradient reaches what is trained."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compression.noise import TASK
from compression.zoo import DIGIT, trained_looking, zoo
from pocketpipe.compression.blocks import BlocksStep
from pocketpipe.compression.channels import ChannelsStep
from pocketpipe.compression.codebook import CodebookStep
from pocketpipe.compression.distillation import decoupled_loss, distillation_loss
from pocketpipe.compression.quantization import QuantizationStep
from pocketpipe.compression.sparsity import SparsityStep
from pocketpipe.plan import CompressionPlan, Step
from pocketpipe.task import Split
from pocketpipe.training.distilling import Attention, Hints
from pocketpipe.training.features import FeatureDistance, Watched, common_points, shapes_made, width

RNG = np.random.default_rng(0)
DATA = Split("noise", RNG.random((32, *DIGIT), np.float32), RNG.integers(0, 10, 32))
STUDENTS: dict[str, Step] = {
    "channels": ChannelsStep(widths={"conv1": 9, "layer2.0.conv1": 20}),
    "blocks": BlocksStep(keep={"layer1.0": 0}),
    "sparsity": SparsityStep(density=0.5),
    "codebook": CodebookStep(bits=3),
    "codebook, weights": CodebookStep(bits=3, tuned="weights"),
    "quantization": QuantizationStep(weight_bits=4),
}


@cache
def teacher() -> nn.Module:
    return trained_looking(zoo("resnet8", DIGIT))


def student(step: Step) -> nn.Module:
    network, _ = CompressionPlan((step,)).carry_out(teacher(), TASK, DATA)
    with torch.no_grad():  # or there would be nothing to learn from a teacher whose weights are the student's
        for parameter in network.parameters():
            parameter.mul_(1.05)
    return network.train()


def features_of(network: nn.Module, choice: Attention | Hints) -> Tensor:
    """Distance of the network's features from the teacher's, at the points that a training would find."""
    own, taught = shapes_made(network, DIGIT), shapes_made(teacher(), DIGIT)
    points = common_points(own, taught, None)
    distance = FeatureDistance(choice, [width(own[point]) for point in points], [width(taught[p]) for p in points])
    inputs = torch.from_numpy(DATA.inputs)
    _, made = Watched(network, points).forward(inputs)
    with torch.no_grad():
        _, wanted = Watched(copy.deepcopy(teacher()).eval(), points).forward(inputs)
    result: Tensor = distance(made, wanted)
    return result


def loss_of(network: nn.Module, objective: str) -> Tensor:
    inputs, targets = torch.from_numpy(DATA.inputs), torch.from_numpy(DATA.targets)
    if objective == "attention":
        return features_of(network, Attention(kind="attention"))
    if objective == "hints":
        return features_of(network, Hints(kind="hints"))
    with torch.no_grad():
        wanted = teacher()(inputs)
    if objective == "logits":
        return distillation_loss(network(inputs), wanted, 4.0)
    return decoupled_loss(network(inputs), wanted, targets, 4.0, alpha=1.0, beta=8.0)


@pytest.mark.parametrize("objective", ["logits", "dkd", "attention", "hints"])
@pytest.mark.parametrize("method", STUDENTS)
def test_every_student_learns_from_every_objective(method: str, objective: str) -> None:
    network = student(STUDENTS[method])
    loss = loss_of(network, objective)
    loss.backward()
    assert loss.item() > 0
    moved = {name: _reached(parameter) for name, parameter in network.named_parameters() if name.startswith("conv1.")}
    assert any(moved.values()), "the first layers learn"
    gradients: list[Any] = [each.grad for each in network.parameters() if each.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)


def _reached(parameter: nn.Parameter) -> bool:
    return parameter.grad is not None and bool(parameter.grad.abs().max() > 0)
