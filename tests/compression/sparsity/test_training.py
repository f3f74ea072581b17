"""Masks under training: schedules, optimizer steps, weight averages, resuming, compiling, export."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from compression.noise import SOME
from compression.noise import TASK as DIGITS
from compression.zoo import DIGIT, zoo
from pocketpipe.compression.channels import ChannelsStep
from pocketpipe.compression.during import OnWeight, Scheduled, scheduled
from pocketpipe.compression.sparsity import SparsityStep
from pocketpipe.compression.sparsity.mask import GradualMask
from pocketpipe.compression.weights import laid_on, original_of, set_weight, weight_of
from pocketpipe.exporting.onnx import check_export, export_onnx
from pocketpipe.network import StoredNetwork
from pocketpipe.plan import CompressionPlan
from pocketpipe.training.recipe import TrainerSettings
from training.samples import RECIPE, Blobs, blobs, train

LAYERS = ("0", "5")


def _start(step: SparsityStep) -> StoredNetwork:
    """The room's network with BatchNorm and dropout, sparse, before any training."""
    stored = StoredNetwork("training.samples:normalized")
    torch.manual_seed(0)
    network, plan = CompressionPlan((step,)).carry_out(stored.build(Blobs()), Blobs(), blobs("train", 64, 0))
    return StoredNetwork(stored.reference, plan=plan).with_weights(network)


def _zeros(network: nn.Module) -> dict[str, Tensor]:
    return {layer: weight_of(network, layer) == 0 for layer in LAYERS}


def _counts(zeros: dict[str, Tensor]) -> dict[str, int]:
    return {layer: int(mask.sum()) for layer, mask in zeros.items()}


WANTED = {"0": 72 - 18, "5": 1152 - 288}


@pytest.mark.parametrize("ema", [None, 0.9])
@pytest.mark.parametrize("schedule", ["one_shot", "gradual"])
def test_zeros_are_exact_after_training(tmp_path: Path, schedule: Any, ema: float | None) -> None:
    start = _start(SparsityStep(density=0.25, schedule=schedule, renewals=5))
    recipe = RECIPE.model_copy(update={"ema": ema})
    first = train(tmp_path / "first", start=start, recipe=recipe).network
    trained = first.build(Blobs())
    assert _counts(_zeros(trained)) == WANTED
    assert not torch.equal(weight_of(trained, "5"), weight_of(start.build(Blobs()), "5"))
    if schedule == "one_shot":
        first_zeros = _zeros(start.build(Blobs()))
        assert all(torch.equal(zeros, first_zeros[layer]) for layer, zeros in _zeros(trained).items())
    again = train(tmp_path / "again", start=first, recipe=recipe, seed=9).network.build(Blobs())
    for layer, zeros in _zeros(trained).items():  # final is final, a second training changes no mask
        assert torch.equal(zeros, weight_of(again, layer) == 0)


def test_a_gradual_training_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    """The masks, and which renewal was the last, are part of the checkpoint."""
    start = _start(SparsityStep(density=0.25, schedule="gradual", renewals=7))
    whole = train(tmp_path / "whole", start=start).network

    class Stopped(Exception):
        pass

    calls = 0
    augment = Blobs.augment

    def stops(self: Blobs, inputs: Tensor, generator: torch.Generator) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 10:  # in the second of three epochs of six steps
            raise Stopped
        return augment(self, inputs, generator)

    Blobs.augment = stops  # type: ignore[method-assign]
    try:
        with pytest.raises(Stopped):
            train(tmp_path / "stopped", start=start)
    finally:
        Blobs.augment = augment  # type: ignore[method-assign]
    assert train(tmp_path / "stopped", start=start).network.digest() == whole.digest()


def test_the_schedule_opens_closes_and_lets_weights_come_back() -> None:
    network = zoo("resnet8", DIGIT)
    step = SparsityStep(density=0.1, schedule="gradual", begin=0.2, end=0.8, renewals=3)
    masked, _ = CompressionPlan((step,)).carry_out(network, DIGITS, SOME)
    layer, elements = "layer3.0.conv2", 36864
    delivered = weight_of(masked, layer) != 0
    assert int(delivered.sum()) in (3686, 3687)  # a tenth, up to the remainder
    parts = scheduled(masked)
    assert len(parts) == 8
    assert all(isinstance(part, Scheduled) for part in parts)
    seen = []
    for progress in (0.0, 0.1, 0.3, 0.41, 0.61, 0.79, 0.8, 1.0):
        for part in parts:
            part.at(progress)
        seen.append(int(weight_of(masked, layer).count_nonzero()))
        if progress == 0.41:  # what was hidden becomes large, what stayed small
            with torch.no_grad():
                original_of(masked, layer).copy_(torch.where(delivered, 1e-3, original_of(masked, layer)))
    by_formula = [0.1 + 0.9 * (1 - k / 3) ** 3 for k in (0, 0, 0, 1, 2, 2, 3, 3)]
    np.testing.assert_allclose(seen, [share * elements for share in by_formula], atol=1)
    assert not (weight_of(masked, layer) != 0)[delivered].any()


def test_a_final_mask_outlives_any_weights_and_a_slimming() -> None:
    network = zoo("resnet8", DIGIT)
    step = SparsityStep(density=0.2, schedule="gradual", renewals=4)
    masked, _ = CompressionPlan((step,)).carry_out(network, DIGITS, SOME)
    for part in scheduled(masked):
        part.at(1.0)
    zeros = weight_of(masked, "layer2.0.conv2") == 0
    set_weight(masked, "layer2.0.conv2", torch.full((32, 32, 3, 3), float("nan")))
    for progress in (0.0, 0.5, 1.0):
        for part in scheduled(masked):
            part.at(progress)
    assert torch.equal(weight_of(masked, "layer2.0.conv2") == 0, zeros)
    set_weight(masked, "layer2.0.conv2", weight_of(network, "layer2.0.conv2"))
    channels = ChannelsStep(widths={"layer2.0.conv1": 20}).pin(masked, DIGITS, SOME)
    kept = list((channels.channels or {})["layer2.0.conv1"])
    slim = channels.apply(masked, DIGITS)
    for part in scheduled(slim):
        part.at(0.3)
    assert torch.equal(weight_of(slim, "layer2.0.conv2") == 0, zeros[:, kept])


def test_a_schedule_of_a_slimmed_network_ends_at_its_share() -> None:
    network = zoo("resnet8", DIGIT)
    plan = CompressionPlan((SparsityStep(density=0.2, schedule="gradual"), ChannelsStep(widths={"layer2.0.conv1": 20})))
    slim, _ = plan.carry_out(network, DIGITS, SOME)
    for progress in (0.0, 1.0):
        for part in scheduled(slim):
            part.at(progress)
    assert int(weight_of(slim, "layer2.0.conv2").count_nonzero()) == round(0.2 * 32 * 20 * 9)


def test_a_copy_follows_its_own_weights() -> None:
    network = zoo("resnet8", DIGIT)
    masked, _ = CompressionPlan((SparsityStep(density=0.2, schedule="gradual"),)).carry_out(network, DIGITS, SOME)
    other = copy.deepcopy(masked)
    for part in scheduled(other):
        assert isinstance(part, OnWeight)
        part.at(0.0)
    assert weight_of(other, "linear").all()
    assert not weight_of(masked, "linear").all()
    (mask,) = laid_on(masked, "linear")
    assert isinstance(mask, GradualMask)
    assert int(mask.renewed) == -1


def test_loading_a_state_forgets_what_was_asked_before() -> None:
    network = zoo("resnet8", DIGIT)
    masked, _ = CompressionPlan((SparsityStep(density=0.2, schedule="gradual"),)).carry_out(network, DIGITS, SOME)
    start = copy.deepcopy(masked.state_dict())
    for _ in range(2):
        for part in scheduled(masked):
            part.at(0.0)
        assert weight_of(masked, "linear").all()
        masked.load_state_dict(start)
        assert not weight_of(masked, "linear").all()


def test_a_compiled_forward_sees_renewed_masks_without_compiling_again() -> None:
    network = zoo("resnet8", DIGIT)
    masked, _ = CompressionPlan((SparsityStep(density=0.1, schedule="gradual"),)).carry_out(network, DIGITS, SOME)
    compilations = 0

    def counting(graph: torch.fx.GraphModule, examples: list[Tensor]) -> Any:
        nonlocal compilations
        compilations += 1
        return graph.forward

    compiled = torch.compile(masked, backend=counting, fullgraph=True)
    x = torch.from_numpy(SOME.inputs)
    outputs = []
    for progress in (0.0, 0.3, 1.0):
        for part in scheduled(masked):
            part.at(progress)
        outputs.append(compiled(x))
        assert torch.allclose(outputs[-1], masked(x), atol=1e-5)
    assert compilations == 1
    assert not torch.allclose(outputs[0], outputs[2], atol=1e-2)


@pytest.mark.slow
def test_zeros_are_exact_after_compiled_training(tmp_path: Path) -> None:
    start = _start(SparsityStep(density=0.25, schedule="gradual", renewals=5))
    settings = TrainerSettings(threads=1, compile="always")
    fitted = train(tmp_path, start=start, settings=settings)
    assert fitted.facts["compiled"]
    assert _counts(_zeros(fitted.network.build(Blobs()))) == WANTED


def test_the_exported_file_has_plain_weights_with_exact_zeros() -> None:
    """BatchNorm with negative scales is folded: its zeros are +0 all the same."""
    network = copy.deepcopy(zoo("resnet8", DIGIT))
    with torch.no_grad():
        network.bn1.weight[::2] *= -1
    plan = CompressionPlan((SparsityStep(density=0.1, protocol="lamp"),))
    masked, _ = plan.carry_out(network, DIGITS, SOME)
    file = export_onnx(masked.eval(), DIGIT)
    check_export(file, masked, SOME.inputs)
    graph = onnx.load_from_string(file).graph
    dense = onnx.load_from_string(export_onnx(network, DIGIT)).graph
    assert [node.op_type for node in graph.node] == [node.op_type for node in dense.node]
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for layer in ("conv1", "layer1.0.conv1", "layer2.0.conv2", "layer3.0.conv2", "linear"):
        zeros = (weight_of(masked, layer) == 0).numpy()
        bits = weights[f"{layer}.weight"].view(np.uint32)
        assert not bits[zeros].any()
        assert bits[~zeros].all()
    assert not any("mask" in name for name in weights)
