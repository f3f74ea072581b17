"""Ranges, against brute force, NumPy, and torch's own observers."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.ao.quantization import HistogramObserver, MinMaxObserver, PerChannelMinMaxObserver

from pocketpipe.compression.quantization.calibration import weight_steps
from pocketpipe.compression.quantization.clipping import (
    BINS,
    RULES,
    STRIDE,
    Interval,
    Ranges,
    Sample,
    divergence,
    squared_errors,
)
from pocketpipe.compression.quantization.quantizers import ActivationQuantizer
from pocketpipe.compression.quantization.ranges import NARROWEST, Observer, weight_limit, weight_scales
from pocketpipe.errors import UserError

METHODS: tuple[Ranges, ...] = get_args(Ranges)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def heavy_tailed(count: int, seed: int = 0) -> Tensor:
    values = random(count, seed=seed).double()
    return (values * values.abs() + 0.3).float()


def rounded(values: Tensor, low: float, high: float, bits: int) -> Tensor:
    """On a tensor's grid, by torch's own operator."""
    scale, zero = grid(low, high, bits)
    half = 2 ** (bits - 1)
    return torch.fake_quantize_per_tensor_affine(values, scale, zero, -half, half - 1)


def grid(low: float, high: float, bits: int) -> tuple[float, int]:
    """(scale, zero point) of a tensor between layers."""
    quantizer = ActivationQuantizer(bits)
    quantizer.set_range(low, high)
    return float(quantizer.scale.detach()), int(quantizer.zero_point)


def sample(values: Tensor) -> Sample:
    """Each value for itself, without a histogram."""
    return Sample.of(values.double().numpy(), np.ones(len(values)), float(values.min()), float(values.max()))


def exact(values: Tensor, bits: int, method: Ranges) -> Interval:
    """The range of a sample that no histogram has been made of."""
    return RULES[method](sample(values), 2**bits - 1)


def error(values: Tensor, low: float, high: float, bits: int) -> float:
    return float((rounded(values, low, high, bits) - values).double().square().sum())


def observed(*batches: Tensor) -> Observer:
    observer = Observer()
    for batch in batches:
        observer.see(batch)
    return observer


# what an observer counts


def test_counts_are_those_of_one_histogram_over_all() -> None:
    batches = [random(1000) * 0.01, random(37, 5, seed=1), torch.zeros(7), random(500, seed=2) * 300 - 100]
    everything = torch.cat([batch.flatten() for batch in batches]).numpy()
    observer = observed(*batches)
    edges = (np.arange(len(observer.counts) + 1) - len(observer.counts) // 2) * observer.width
    expected, _ = np.histogram(everything[everything != 0], edges)
    assert observer.counts.tolist() == expected.tolist()
    assert observer.zeros == 7
    assert (observer.low, observer.high) == (everything.min(), everything.max())
    backwards = observed(*reversed(batches))
    assert torch.equal(backwards.counts, observer.counts)
    assert observed(torch.from_numpy(everything)).range(8, "mse") == observer.range(8, "mse")


def test_powers_of_two_and_growth_over_the_whole_histogram() -> None:
    observer = observed(torch.tensor([1.0, -1.0, 1e-6]), torch.tensor([-(2.0**40)]))
    assert int(observer.counts.sum()) == 4
    assert observer.range(8, "minmax") == (-(2.0**40), 1.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_float_types_count_alike(dtype: torch.dtype) -> None:
    values = random(300).bfloat16()
    assert torch.equal(observed(values.to(dtype)).counts, observed(values.float()).counts)


# minmax, and the grids


def test_minmax_gives_torchs_grid() -> None:
    theirs = MinMaxObserver(dtype=torch.qint8, quant_min=-128, quant_max=127)
    batches = [random(100) + 0.5, random(50, seed=1) * 2]
    for batch in batches:
        theirs(batch)
    scale, zero = theirs.calculate_qparams()
    ours = grid(*observed(*batches).range(8, "minmax"), 8)
    assert ours == (pytest.approx(float(scale), rel=1e-6), int(zero))


def test_weight_minmax_gives_torchs_scales() -> None:
    weight = random(6, 4, 3, 3)
    theirs = PerChannelMinMaxObserver(
        ch_axis=0, dtype=torch.qint8, qscheme=torch.per_channel_symmetric, quant_min=-127, quant_max=127
    )
    theirs(weight)
    assert torch.allclose(weight_scales(weight, 8, "minmax"), theirs.calculate_qparams()[0])
    transposed = weight.transpose(0, 1).contiguous()
    assert torch.equal(weight_steps(transposed, 8, 1, "minmax"), weight_scales(weight, 8, "minmax"))


# percentile


def test_percentile_is_numpys() -> None:
    values = heavy_tailed(30_001)
    low, high = exact(values, 8, "percentile")
    assert (low, high) == tuple(np.quantile(values.numpy(), [0.0001, 0.9999], method="inverted_cdf"))
    assert high < values.max()


def test_percentile_of_a_histogram_is_a_bin_away_at_most() -> None:
    values = heavy_tailed(200_000)
    low, high = observed(values).range(8, "percentile")
    expected = np.quantile(values.numpy(), [0.0001, 0.9999], method="inverted_cdf")
    assert np.abs(np.array([low, high]) - expected).max() <= observed(values).width


def test_percentile_of_a_histogram_keeps_what_it_promises_beside_wild_values() -> None:
    values = torch.cat([torch.rand(100_000, generator=torch.Generator().manual_seed(0)), torch.full((5,), 1000.0)])
    _, high = observed(values).range(8, "percentile")
    assert (values > high).double().mean() <= 1e-4
    assert high < 10


# mse


def test_errors_from_cumulated_sums_are_those_of_rounding() -> None:
    values = heavy_tailed(500)
    ends = [(-1.0, 2.0), (-0.3, 9.0), (0.0, 4.0), (-5.0, 0.0)]
    found = squared_errors(sample(values), *np.array(ends).T, 15)
    assert found == pytest.approx([error(values, *end, 4) for end in ends], rel=1e-4)


@pytest.mark.parametrize("bits", [2, 3, 4, 6])
@pytest.mark.parametrize("shift", [0.0, 1.5])
def test_mse_is_as_good_as_brute_force(bits: int, shift: float) -> None:
    values = heavy_tailed(300) + shift
    found = error(values, *exact(values, bits, "mse"), bits)
    lows, highs = np.linspace(float(values.min()), 0, 60), np.linspace(float(values.max()), 0.05, 60)
    assert found <= 1.01 * min(error(values, low, high, bits) for low in lows for high in highs)


@pytest.mark.parametrize("values", [heavy_tailed(100_000), heavy_tailed(100_000).relu()], ids=["both", "relu"])
@pytest.mark.parametrize("bits", [4, 8])
def test_mse_is_no_worse_than_torchs_histogram_observer(values: Tensor, bits: int) -> None:
    half = 2 ** (bits - 1)
    theirs = HistogramObserver(dtype=torch.qint8, quant_min=-half, quant_max=half - 1)
    theirs(values)
    scale, zero = theirs.calculate_qparams()
    rival = torch.fake_quantize_per_tensor_affine(values, float(scale), int(zero), -half, half - 1)
    ours = error(values, *observed(values).range(bits, "mse"), bits)
    assert ours <= 1.01 * float((rival - values).double().square().sum())


def test_weight_mse_is_the_best_of_a_hundred_scales() -> None:
    weight, limit = heavy_tailed(5 * 60).reshape(5, 60), weight_limit(3)
    for row, scale in zip(weight, weight_scales(weight, 3, "mse"), strict=True):
        tried = [float(row.abs().max()) * k / 100 / limit for k in range(1, 101)]
        errors = [float((torch.clamp((row / s).round(), -limit, limit) * s - row).square().sum()) for s in tried]
        assert float(scale) == pytest.approx(tried[int(np.argmin(errors))], rel=1e-5)


def test_a_weights_dead_channels_get_a_scale_that_a_bias_can_be_stored_with() -> None:
    weight = random(4, 10)
    weight[1] = 0
    weight[2] *= 1e-12
    for method in ("minmax", "mse"):
        scales = weight_scales(weight, 8, method)
        assert scales[1] == scales[2] == scales.max() * NARROWEST
        assert torch.equal(weight_scales(torch.zeros(2, 3), 8, method), torch.full((2,), 1 / 127))
    scales = weight_steps(weight, 8, 0, "lsq")
    assert scales[1] == scales[2] == scales.max() * NARROWEST
    assert torch.equal(weight_steps(torch.zeros(2, 3), 8, 0, "lsq"), torch.full((2,), 1 / 127))


def test_lsq_starts_from_the_weights_that_a_mask_leaves() -> None:
    weight = random(3, 40)
    hidden = weight * (torch.arange(40) % 4 == 0)
    assert torch.equal(weight_steps(hidden, 4, 0, "lsq"), weight_steps(weight[:, ::4], 4, 0, "lsq"))


# entropy


def kullback_leibler(counts: np.ndarray, end: int, levels: int) -> float:
    """TensorRT's rule, one element after the other."""
    reference = counts[:end].astype(float)
    reference[-1] += counts[end:].sum()
    candidate = np.zeros(end)
    for level in range(levels):
        members = [i for i in range(end) if i * levels // end == level]
        filled = [i for i in members if reference[i] > 0]
        for i in filled:
            candidate[i] = sum(counts[m] for m in members) / len(filled)
    total = 0.0
    for p, q in zip(reference / reference.sum(), candidate / candidate.sum(), strict=True):
        if p > 0:
            total += p * math.log(p / q) if q > 0 else math.inf
    return total


def test_divergence_is_that_of_the_definition() -> None:
    counts = np.histogram(heavy_tailed(3000).abs().numpy(), 128)[0]
    for end in (128, 100, 64, 33, 16):
        assert divergence(counts, 0, end, 16) == pytest.approx(kullback_leibler(counts, end, 16), abs=1e-12)
    mirrored = divergence(counts[::-1], 128 - 64, 128, 16)
    assert mirrored == pytest.approx(divergence(counts, 0, 64, 16), abs=1e-12)


@pytest.mark.parametrize("sign", [1, -1])
def test_entropy_takes_the_least_divergence(sign: int) -> None:
    values = heavy_tailed(20_000).abs()
    counts, edges = np.histogram(values.numpy().astype(float), BINS, (0, float(values.max())))
    ends = range(BINS, 15, -STRIDE)
    best = min(ends, key=lambda end: divergence(counts, 0, end, 16))
    low, high = exact(sign * values, 4, "entropy")
    # levels are a bin wider here and there, not at the same places seen from the other end
    assert (low, high) == pytest.approx((0.0, edges[best]) if sign > 0 else (-edges[best], 0.0), rel=0.02)
    assert edges[best] < values.max()


def test_entropy_of_both_signs_moves_both_ends() -> None:
    values = torch.cat([random(50_000), torch.tensor([-20.0, 30.0])])
    low, high = exact(values, 4, "entropy")
    assert -6 < low < -2
    assert 2 < high < 6


# all methods


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bits", [2, 8])
def test_zero_is_inside_and_on_the_grid(method: str, bits: int) -> None:
    for values in (random(1000), random(1000).abs() + 3, -random(1000).abs() - 3, random(1000).relu()):
        low, high = exact(values, bits, method)
        assert low <= 0 <= high
        assert low < high
        assert rounded(torch.zeros(1), low, high, bits).item() == 0


@pytest.mark.parametrize("method", METHODS)
def test_nothing_but_zeros_has_a_grid(method: Ranges) -> None:
    assert observed(torch.zeros(9), torch.zeros(0)).range(8, method) == (0.0, 1.0)


@pytest.mark.parametrize("method", METHODS)
def test_a_histogram_says_nearly_what_the_samples_say(method: Ranges) -> None:
    values = heavy_tailed(60_000)
    counted = observed(values).range(4, method)
    assert error(values, *counted, 4) == pytest.approx(error(values, *exact(values, 4, method), 4), rel=0.03)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_no_range_of_nan_and_infinity(bad: float) -> None:
    values = torch.tensor([1.0, bad])
    with pytest.raises(UserError, match="NaN or infinity"):
        observed(values)
    with pytest.raises(UserError, match="NaN or infinity"):
        weight_scales(values[None], 8, "mse")


def test_no_range_of_nothing_nor_of_other_bits() -> None:
    with pytest.raises(ValueError, match="no samples"):
        Observer().range(8, "minmax")
    for bits in (1, 9):
        with pytest.raises(ValueError, match="2 to 8"):
            weight_scales(torch.ones(1, 3), bits, "minmax")
