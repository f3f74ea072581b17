"""The step as plans use it: space, projection, cost, pinning, application, calibration, JSON, refusals."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from compression.zoo import DIGIT, ROWS, exported, odd, zoo
from pocketpipe.budget import Limits
from pocketpipe.compression.channels import ChannelsStep
from pocketpipe.compression.codebook import CodebookStep
from pocketpipe.compression.quantization import QuantizationStep
from pocketpipe.compression.quantization.insertion import quantizers_of
from pocketpipe.compression.quantization.step import CHOICES, MOST_CHOICES
from pocketpipe.compression.tracing import profile_of
from pocketpipe.compression.weights import weight_of
from pocketpipe.errors import Mistakes, UserError
from pocketpipe.exporting.onnx import export_onnx
from pocketpipe.exporting.packing import pack, packed
from pocketpipe.network import StoredNetwork
from pocketpipe.plan import CompressionPlan
from pocketpipe.profile import NetworkProfile
from pocketpipe.samples import prepared_batches
from pocketpipe.task import Preprocessing, Split


def _task(shape: tuple[int, ...]) -> Any:
    return SimpleNamespace(
        input_shape=shape, labels=tuple("0123456789"), preprocessing=Preprocessing(),
        augment_both=lambda inputs, targets, generator: (inputs, targets),
    )  # fmt: skip


def _data(shape: tuple[int, ...], count: int = 64) -> Split:
    return Split("noise", np.random.default_rng(0).standard_normal((count, *shape)).astype(np.float32), np.zeros(count))


def _profile(network: nn.Module, shape: tuple[int, ...], onnx: bytes) -> NetworkProfile:
    """As the profile stage measures it by the dense file."""
    return profile_of(network, shape).in_file_of(len(onnx), packed(onnx).overhead)


def _carried_out(step: QuantizationStep, network: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    quantized, _ = CompressionPlan((step,)).carry_out(network, _task(shape), _data(shape))
    return quantized.eval()


def test_the_space_has_bits_for_each_layer_but_the_first_and_the_last() -> None:
    space = QuantizationStep().space(profile_of(zoo("resnet8", DIGIT), DIGIT))
    assert list(space)[:2] == ["layer1.0.conv1", "layer1.0.conv2"]
    assert len(space) == 6
    assert space["layer1.0.conv1"] == {"_type": "choice", "_value": list(CHOICES)}


def test_bits_that_the_user_sets_are_not_searched() -> None:
    profile = profile_of(zoo("resnet8", DIGIT), DIGIT)
    assert not QuantizationStep(weight_bits=4).space(profile)
    assert QuantizationStep(activation_bits=4).proposed({"layer1.0.conv1": 2}, profile) == QuantizationStep(
        activation_bits=4, bits={"layer1.0.conv1": 2}
    )


def test_a_deep_networks_layers_share_bits() -> None:
    profile = profile_of(zoo("resnet56", DIGIT), DIGIT)
    space = QuantizationStep().space(profile)
    assert len(space) <= MOST_CHOICES
    step = QuantizationStep().proposed(dict.fromkeys(space, 4), profile)
    assert len(step.bits) == 54
    assert set(step.bits.values()) == {4}
    assert QuantizationStep().proposed({next(iter(space)): 2}, profile).bits == {
        "layer1.0.conv1": 2,
        "layer1.0.conv2": 2,
        "layer1.1.conv1": 2,
    }


def test_projection_takes_bits_from_the_largest_layers_first() -> None:
    profile = profile_of(zoo("resnet8", DIGIT), DIGIT)
    step = QuantizationStep()
    bytes_now = step.predict(profile).cost().file_bytes
    assert step.project(profile, Limits(file_bytes=bytes_now)) == step
    projected = step.project(profile, Limits(file_bytes=bytes_now - 1000))
    assert projected.bits == {"layer3.0.conv2": 6}, "the largest one"
    tight = step.project(profile, Limits(file_bytes=30_000))
    assert tight.predict(profile).cost().file_bytes <= 30_000
    assert (
        tight.bits.get("layer3.0.conv2", 8) < tight.bits.get("layer1.0.conv1", 8) or len(set(tight.bits.values())) == 1
    )


def test_projection_leaves_first_and_last_layers_alone_and_says_what_is_out_of_reach() -> None:
    profile = profile_of(zoo("resnet8", DIGIT), DIGIT)
    with pytest.raises(UserError, match=r"the fewest bits [\d,]+ bytes are over the limit .*; reachable: compression"):
        QuantizationStep().project(profile, Limits(file_bytes=10_000))
    lowest = QuantizationStep().proposed(dict.fromkeys(QuantizationStep().space(profile), 2), profile)
    smallest = lowest.predict(profile).cost().file_bytes
    assert QuantizationStep().project(profile, Limits(file_bytes=smallest)).bits == lowest.bits


def test_bits_are_as_many_as_the_budget_leaves_room_for() -> None:
    profile = profile_of(zoo("resnet8", DIGIT), DIGIT)
    step = QuantizationStep()
    few = step.proposed(dict.fromkeys(step.space(profile), 2), profile)
    assert set(few.project(profile, Limits(macs=10**9)).bits.values()) == {8}, "bytes are not limited"
    limits = Limits(file_bytes=40_000)
    cost = few.project(profile, limits).predict(profile).cost()
    assert 39_000 < cost.file_bytes <= 40_000
    on_a_device = few.project(profile, Limits(flash_bytes=52_000))
    flash = on_a_device.predict(profile).cost().flash_bytes
    assert flash is not None
    assert flash <= 52_000
    assert not {3, 6} & set(on_a_device.bits.values()), "they take what 4 and 8 bits take"
    by_hand = QuantizationStep(bits={"layer1.0.conv1": 2})
    assert by_hand.proposed({}, profile).project(profile, Limits(file_bytes=10**6)).bits == {"layer1.0.conv1": 2}


def test_bits_of_the_user_are_given_back_where_fewer_save_nothing() -> None:
    """A device has 5 to 8 bits as bytes: all that 6 save of 8 is accuracy."""
    profile = profile_of(zoo("resnet8", DIGIT), DIGIT)
    step = QuantizationStep(weight_bits=8)
    for share in (0.9, 0.7):
        flash = step.predict(profile).cost().flash_bytes or 0
        limits = Limits(flash_bytes=int(share * flash))
        made = step.project(profile, limits)
        assert limits.keeps(made.predict(profile).cost())
        assert {*made.bits.values()} <= {2, 4, 8}
    seven = QuantizationStep(weight_bits=7).project(profile, Limits(flash_bytes=int(0.9 * flash)))
    assert {*seven.bits.values()} <= {2, 4, 7}


def test_bits_of_single_layers_go_by_name_where_other_layers_are_on_a_grid() -> None:
    profile = profile_of(zoo("resnet8", DIGIT), DIGIT)
    proposal = {key: CHOICES[place % len(CHOICES)] for place, key in enumerate(QuantizationStep().space(profile))}
    shared = CodebookStep(grid="int8", layers={"layer1.0.conv2": 4}).predict(profile)
    bits = QuantizationStep().proposed(proposal, shared).bits
    assert bits == {layer: value for layer, value in proposal.items() if layer != "layer1.0.conv2"}


def test_values_on_a_grid_keep_it() -> None:
    """A codebook's tables of integers are what the file and a device have, whatever bits a weight is given here."""
    profile = profile_of(zoo("resnet8", DIGIT), DIGIT)
    shared = CodebookStep(bits=5, grid="int8").predict(profile)
    assert QuantizationStep(weight_bits=4).predict(shared).cost() == QuantizationStep().predict(shared).cost()
    assert QuantizationStep().space(shared) == {}
    assert QuantizationStep().space(CodebookStep(bits=5).predict(profile))


def test_bits_of_runs_hold_where_blocks_took_layers_out() -> None:
    profile = profile_of(zoo("resnet56", DIGIT), DIGIT)
    step = QuantizationStep()
    proposal = {key: CHOICES[place % len(CHOICES)] for place, key in enumerate(step.space(profile))}
    shorter = profile.without(["layer1.1", "layer1.2", "layer2.4", "layer3.3"])
    assert not proposal.keys() <= step.space(shorter).keys()
    bits = list(step.proposed(proposal, shorter).bits.values())
    assert len(bits) == len([layer for layer in shorter.layers if layer.weight]) - 2
    assert {bits.count(choice) > len(bits) // 8 for choice in CHOICES} == {True}


def test_macs_cannot_be_removed_by_it() -> None:
    profile = profile_of(zoo("resnet8", DIGIT), DIGIT)
    macs = profile.cost().macs
    assert QuantizationStep().predict(profile).cost().macs == macs
    assert QuantizationStep().project(profile, Limits(macs=macs)) == QuantizationStep()
    with pytest.raises(UserError, match=r"MACs are over the limit of .* fewer bits change that no further"):
        QuantizationStep().project(profile, Limits(macs=macs - 1))


CASES = [("resnet8", DIGIT, 8), ("lenet", DIGIT, 2)]


@pytest.mark.parametrize(("name", "shape", "bits"), CASES)
def test_the_predicted_cost_is_an_upper_bound_of_the_files(name: str, shape: tuple[int, ...], bits: int) -> None:
    network = zoo(name, shape)
    step = QuantizationStep(weight_bits=bits, ranges="minmax")
    onnx = export_onnx(_carried_out(step, network, shape), shape)
    cost = step.predict(_profile(network, shape, exported(name, shape))).cost()
    assert len(onnx) <= (cost.resident_bytes or 0)
    assert min(len(onnx), len(pack(onnx))) <= cost.file_bytes
    assert cost.file_bytes < 1.3 * len(pack(onnx)), "and not far from it"


@pytest.mark.parametrize(("name", "shape"), [("resnet8", DIGIT), ("lenet", DIGIT), ("gru", ROWS)])
def test_a_file_that_got_small_is_predicted_closely_too(name: str, shape: tuple[int, ...]) -> None:
    """Its graph is a third of it, and packs well: a budget that real files keep must not be refused."""
    network = zoo(name, shape)
    profile = _profile(network, shape, exported(name, shape))
    widths = {group.name: group.channels // 4 for group in profile.slimmable}
    plan = CompressionPlan((ChannelsStep(widths=widths, reconstruction=None), QuantizationStep(ranges="minmax")))
    made, pinned = plan.carry_out(network, _task(shape), _data(shape))
    smallest = len(pack(export_onnx(made.eval(), shape)))
    assert smallest <= pinned.predict(profile).cost().file_bytes < 1.35 * smallest


def test_a_file_that_is_mostly_graph_is_predicted_from_above_as_well() -> None:
    network, shape = odd("mixer")
    dense = export_onnx(network, shape)
    onnx = export_onnx(_carried_out(QuantizationStep(ranges="minmax"), network, shape), shape)
    cost = QuantizationStep().predict(_profile(network, shape, dense)).cost()
    assert len(onnx) <= (cost.resident_bytes or 0)
    assert min(len(onnx), len(pack(onnx))) <= cost.file_bytes


def test_it_is_carried_out_and_replayed_from_json_and_weights() -> None:
    network, task = zoo("resnet8", DIGIT), _task(DIGIT)
    step = QuantizationStep(weight_bits=4, activation_bits=4, bits={"layer3.0.conv2": 2})
    quantized, pinned = CompressionPlan((step,)).carry_out(network, task, _data(DIGIT))
    again = CompressionPlan.from_json(pinned.to_json())
    assert again == pinned
    assert len(pinned.to_json()) < 1000
    stored = StoredNetwork("resnet8", plan=again).with_weights(quantized)
    built = stored.build(task)
    x = torch.randn(3, *DIGIT)
    with torch.no_grad():
        assert torch.equal(built(x), quantized.eval()(x))


def test_calibration_is_deterministic_and_uses_so_many_examples() -> None:
    network, task, data = zoo("resnet8", DIGIT), _task(DIGIT), _data(DIGIT)

    def scales(step: QuantizationStep, split: Split) -> list[float]:
        quantized = step.apply(network, task)
        step.calibrate(quantized, network, task, split)
        return [float(quantizer.scale.detach()) for quantizer in quantizers_of(quantized).values()]

    first = scales(QuantizationStep(examples=32), data)
    assert first == scales(QuantizationStep(examples=32), data)
    assert first == scales(QuantizationStep(), data.take(np.arange(32)))
    assert first != scales(QuantizationStep(), data)


class _Unequal(nn.Module):
    """Channels of very different ranges between two convolutions that make up for them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 6, 3)
        with torch.no_grad():
            factors = 2.0 ** torch.arange(8)
            self.first.weight.mul_(factors.view(-1, 1, 1, 1))
            self.first.bias.mul_(factors)
            self.second.weight.div_(factors.view(1, -1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x))).mean((2, 3))


def _error(options: dict[str, Any]) -> float:
    network = _Unequal()
    step = QuantizationStep(
        **{"weight_bits": 4, "first_last": 4, "weight_ranges": "minmax", "ranges": "minmax", "rounding": "nearest"}
        | options
    )
    quantized = _carried_out(step, network, DIGIT)
    with torch.no_grad():
        batch = next(prepared_batches(_task(DIGIT), _data(DIGIT), 64))
        return float((quantized(batch) - network(batch)).square().mean())


@pytest.mark.parametrize(
    ("options", "than"),
    [
        ({"rounding": "adaround"}, {}),
        ({"rounding": "gptq"}, {}),
        ({"bias_correction": "empirical"}, {}),
        ({}, {"granularity": "per_tensor"}),
        ({"batchnorm": "folded", "equalization": "cross_layer"}, {"batchnorm": "folded"}),
    ],
    ids=["adaround", "gptq", "bias correction", "per channel", "equalization"],
)
def test_options_bring_the_outputs_nearer(options: dict[str, Any], than: dict[str, Any]) -> None:
    assert _error(options) < 0.9 * _error(than)


def test_eight_bits_go_to_the_nearest_integer() -> None:
    network = zoo("resnet8", DIGIT)
    default, nearest = (
        _carried_out(step, network, DIGIT) for step in (QuantizationStep(), QuantizationStep(rounding="nearest"))
    )
    assert torch.equal(weight_of(default, "conv1"), weight_of(nearest, "conv1"))


def test_folded_first_computes_nearly_what_folded_late_does() -> None:
    """Steps of channels follow the factors, so that only rounding differs."""
    network = zoo("resnet8", DIGIT)
    x = next(prepared_batches(_task(DIGIT), _data(DIGIT), 64))
    late, folded = (
        _carried_out(QuantizationStep(batchnorm=when, weight_ranges="minmax", ranges="minmax"), network, DIGIT)
        for when in ("late", "folded")
    )
    with torch.no_grad():
        step = float(quantizers_of(late)["linear"].scale)
        assert (late(x) - folded(x)).abs().max() < 6 * step
        assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
        torch.testing.assert_close(weight_of(late, "linear"), weight_of(folded, "linear"))


def test_a_thinned_network_is_quantized() -> None:
    network, task = zoo("resnet8", DIGIT), _task(DIGIT)
    task.augment_both = lambda inputs, targets, generator: (inputs, targets)
    plan = CompressionPlan((ChannelsStep(widths={"conv1": 9, "layer3.0.conv1": 30}), QuantizationStep()))
    quantized, pinned = plan.carry_out(network, task, _data(DIGIT))
    assert quantized.conv1.parametrizations.weight[0].scale.shape == (9,)
    replayed = StoredNetwork("resnet8", plan=pinned).with_weights(quantized).build(task)
    x = torch.randn(3, *DIGIT)
    with torch.no_grad():
        assert torch.equal(replayed(x), quantized.eval()(x))


def test_mistakes_are_named() -> None:
    network, task = zoo("resnet8", DIGIT), _task(DIGIT)
    with pytest.raises(Mistakes, match=r"quantization.bits.conv9: no such layer; layers: conv1, layer1.0.conv1"):
        QuantizationStep(bits={"conv9": 4}).pin(network, task, _data(DIGIT))
    with pytest.raises(ValidationError, match="9 bits: 2 to 8 are possible, or 32"):
        QuantizationStep(bits={"conv1": 9})
    with pytest.raises(ValidationError, match="needs batchnorm: folded"):
        QuantizationStep(equalization="cross_layer")
    with pytest.raises(Mistakes, match="quantized already"):
        CompressionPlan((QuantizationStep(), QuantizationStep()))
    with pytest.raises(Mistakes, match="put channels first"):
        CompressionPlan((QuantizationStep(), ChannelsStep(widths={"conv1": 9})))


class _Standardized(nn.Module):
    """A weight that is computed before a layer reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3))
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(nn.functional.linear(x, self.weight.clone())))


def test_weights_that_no_layer_reads_are_named() -> None:
    network, task = _Standardized(), _task((3,))
    with pytest.raises(UserError, match=r"the weights of weight are not read directly .* \(bits: \{weight: 32\}\)"):
        QuantizationStep().pin(network, task, _data((3,)))
    left = QuantizationStep(bits={"weight": 32}).pin(network, task, _data((3,)))
    assert left.predict(profile_of(network, (3,))).layer("weight").stored_bits == 32


def test_apply_leaves_the_mode_of_the_network() -> None:
    network = copy.deepcopy(zoo("resnet8", DIGIT)).train()
    quantized = QuantizationStep().apply(network, _task(DIGIT))
    assert quantized.training
    assert all(module.training for module in network.modules())
