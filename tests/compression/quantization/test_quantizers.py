"""The simulation against torch's own fake quantization."""

from __future__ import annotations

import pytest
import torch

from pocketpipe.compression.quantization.quantizers import (
    ActivationQuantizer,
    WeightQuantizer,
    activation_levels,
    weight_levels,
)

BITS = range(2, 9)


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bits", BITS)
def test_weights_are_rounded_as_torch_rounds_them_per_channel(bits: int) -> None:
    weight = _random(5, 3, 2, 2)
    quantizer = WeightQuantizer(bits, (5, 3, 2, 2), axis=0)
    step = 2.0 ** -torch.arange(1.0, 6.0)  # powers of two: division and multiplication by the inverse are the same
    quantizer.set_step(step)
    low, high = weight_levels(bits)
    expected = torch.fake_quantize_per_channel_affine(weight, step, torch.zeros(5, dtype=torch.int32), 0, low, high)
    assert torch.equal(quantizer(weight), expected)


@pytest.mark.parametrize("bits", BITS)
def test_weights_are_rounded_as_torch_rounds_them_per_tensor(bits: int) -> None:
    weight = _random(5, 7)
    quantizer = WeightQuantizer(bits, (5, 7), axis=None)
    quantizer.set_step(0.125)
    assert torch.equal(quantizer(weight), torch.fake_quantize_per_tensor_affine(weight, 0.125, 0, *weight_levels(bits)))


@pytest.mark.parametrize("bits", BITS)
def test_activations_are_rounded_as_torch_rounds_them(bits: int) -> None:
    x = _random(4, 50) * 3
    quantizer = ActivationQuantizer(bits)
    quantizer.scale.data.fill_(0.25)
    for zero_point in {0, *activation_levels(bits)}:
        quantizer.zero_point.fill_(zero_point)
        expected = torch.fake_quantize_per_tensor_affine(x, 0.25, zero_point, *activation_levels(bits))
        assert torch.equal(quantizer(x), expected)


def test_with_any_step_only_ties_can_differ() -> None:
    x = _random(100_000)
    quantizer = ActivationQuantizer(8)
    quantizer.set_range(-2.7, 3.3)
    step = float(quantizer.scale.detach())
    expected = torch.fake_quantize_per_tensor_affine(x, step, int(quantizer.zero_point), -128, 127)
    difference = (quantizer(x) - expected).abs()
    assert (difference > 1e-5).float().mean() < 1e-4
    assert difference.max() <= step * 1.001


def test_halves_go_to_even_integers_wherever_the_zero_point_is() -> None:
    """As ONNX's QuantizeLinear: round(x / scale) + zero point."""
    quantizer = ActivationQuantizer(8)
    for zero_point in (0, 1):
        quantizer.zero_point.fill_(zero_point)
        assert quantizer(torch.tensor([0.5, 1.5, 2.5, -0.5])).tolist() == [0.0, 2.0, 2.0, 0.0]


@pytest.mark.parametrize(("low", "high"), [(0.0, 6.0), (-1.0, 1.0), (-3.0, 0.5), (2.0, 5.0), (-5.0, -2.0)])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_range_and_zero_are_on_the_grid(low: float, high: float, bits: int) -> None:
    quantizer = ActivationQuantizer(bits)
    quantizer.set_range(low, high)
    ends = torch.tensor([low, 0.0, high])
    rounded = quantizer(ends)
    step = float(quantizer.scale.detach())
    assert rounded[1] == 0
    assert (rounded - ends).abs().max() <= step / 2 * 1.001
    assert step == pytest.approx((max(high, 0) - min(low, 0)) / (2**bits - 1))


def test_a_tensor_of_zeros_gets_a_step_all_the_same() -> None:
    quantizer = ActivationQuantizer(8)
    quantizer.set_range(0.0, 0.0)
    assert quantizer.scale.item() == 1.0
    assert torch.equal(quantizer(torch.zeros(3)), torch.zeros(3))


def test_scales_have_at_most_one_dimension() -> None:
    """Weight decay takes all parameters with more."""
    assert WeightQuantizer(8, (5, 3, 2, 2), axis=0).scale.shape == (5,)
    assert ActivationQuantizer(8).scale.ndim == 0


def test_a_scale_that_training_made_negative_still_is_a_step() -> None:
    quantizer = ActivationQuantizer(8)
    quantizer.scale.data.fill_(-0.25)
    assert quantizer(torch.tensor([1.1])).item() == 1.0
    quantizer.scale.data.fill_(0.0)
    assert torch.isfinite(quantizer(torch.tensor([1.1]))).all()
