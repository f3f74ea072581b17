"""LSQ's gradients against the paper's formulas, and what they lead to (Esser et al. 2020)."""

from __future__ import annotations

import math

import pytest
import torch

from pocketpipe.compression.quantization.quantizers import (
    LARGEST_GRADIENT,
    ActivationQuantizer,
    WeightQuantizer,
    activation_levels,
    learned_step,
    lsq_step,
    weight_levels,
)

SMALL = 1e-3
"""Factor of a loss whose gradients are far from where they are cut off."""


def _paper(v: float, s: float, low: int, high: int) -> tuple[float, float]:
    """(d v^ / d v, d v^ / d s) of equations 5 and 3."""
    scaled = v / s
    if scaled <= low:
        return 0.0, float(low)
    if scaled >= high:
        return 0.0, float(high)
    return 1.0, -scaled + round(scaled)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_gradients_of_a_weight_are_the_papers(bits: int) -> None:
    generator = torch.Generator().manual_seed(bits)
    weight = torch.randn(3, 4, generator=generator, requires_grad=True)
    steps = [0.3, 0.11, 0.02]
    quantizer = WeightQuantizer(bits, (3, 4), axis=0)
    quantizer.set_step(torch.tensor(steps))
    upstream = SMALL * torch.randn(3, 4, generator=generator)
    quantizer(weight).backward(upstream)
    low, high = weight_levels(bits)
    share = 1 / math.sqrt(4 * high)  # four weights share a step
    assert weight.grad is not None
    assert quantizer.scale.grad is not None
    for row, step in enumerate(steps):
        expected = [_paper(float(v), step, low, high) for v in weight.detach()[row]]
        assert weight.grad[row].tolist() == pytest.approx(
            [d * float(u) for (d, _), u in zip(expected, upstream[row], strict=True)]
        )
        slope = sum(d * float(u) for (_, d), u in zip(expected, upstream[row], strict=True))
        assert float(quantizer.scale.grad[row]) == pytest.approx(share * slope, rel=1e-4)


def test_gradients_of_an_activation_are_the_papers_around_its_zero_point() -> None:
    x = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    quantizer = ActivationQuantizer(4)
    quantizer.scale.data.fill_(0.2)
    quantizer.zero_point.fill_(-5)
    (SMALL * quantizer(x)).sum().backward()
    low, high = (level + 5 for level in activation_levels(4))
    expected = [[_paper(float(v), 0.2, low, high) for v in row] for row in x.detach()]
    share = 1 / math.sqrt(5 * high)  # five features of an example
    assert x.grad is not None
    assert quantizer.scale.grad is not None
    assert x.grad.tolist() == [[pytest.approx(SMALL * d) for d, _ in row] for row in expected]
    slope = SMALL * sum(d for row in expected for _, d in row)
    assert float(quantizer.scale.grad) == pytest.approx(share * slope, rel=1e-4)


def test_where_everything_is_clipped_the_gradient_is_that_of_finite_differences() -> None:
    """There the rounded value is a smooth function of the step."""
    x = torch.tensor([5.0, 7.0, -9.0, 11.0], dtype=torch.float64)
    quantizer = WeightQuantizer(4, (1, 4), axis=None).double()
    quantizer.set_step(0.1)
    (SMALL * quantizer(x[None])).sum().backward()
    assert quantizer.scale.grad is not None
    delta = 1e-6

    def at(step: float) -> float:
        quantizer.set_step(step)
        return float(quantizer(x[None]).sum().detach())

    difference = (at(0.1 + delta) - at(0.1 - delta)) / (2 * delta)
    assert float(quantizer.scale.grad) == pytest.approx(SMALL * difference / math.sqrt(4 * 7), rel=1e-6)


@pytest.mark.parametrize("upstream", [1e6, -1e6])
def test_a_steps_gradient_is_bounded_by_the_step(upstream: float) -> None:
    weight = torch.tensor([[0.26, 0.9], [0.0133, 0.0266]])
    quantizer = WeightQuantizer(8, (2, 2), axis=0)
    quantizer.set_step(torch.tensor([0.2, 0.01]))
    (upstream * quantizer(weight)).sum().backward()
    assert quantizer.scale.grad is not None
    rounding = (weight / quantizer.step(2)).round() - weight / quantizer.step(2)
    signs = rounding.sum(1).sign() * math.copysign(1, upstream)
    assert torch.allclose(quantizer.scale.grad, LARGEST_GRADIENT * signs * torch.tensor([0.2, 0.01]))


def test_the_first_step_is_the_papers() -> None:
    weight = torch.tensor([1.0, -3.0, 2.0, 0.0])
    assert float(lsq_step(weight, 7)) == pytest.approx(2 * 1.5 / math.sqrt(7))


@pytest.mark.parametrize("start", [0.05, 2.0])
def test_training_finds_nearly_the_best_step(start: float) -> None:
    """Of the squared rounding error, by brute force over steps."""
    weight = torch.randn(1, 4000, generator=torch.Generator().manual_seed(0))
    quantizer = WeightQuantizer(3, (1, 4000), axis=0)

    def error(step: float) -> float:
        quantizer.set_step(step)
        return float((quantizer(weight) - weight).square().mean().detach())

    best = min(error(step / 1000) for step in range(50, 2000, 10))
    quantizer.set_step(start)
    optimizer = torch.optim.SGD(quantizer.parameters(), lr=1.0, momentum=0.9)
    for _ in range(300):
        optimizer.zero_grad()
        (quantizer(weight) - weight).square().mean().backward()
        optimizer.step()
    assert error(float(quantizer.scale.detach())) < 1.1 * best


def test_under_autocast_integers_are_not_lost() -> None:
    """bfloat16 has 8 bits: 201.6 steps would be 202 before they are rounded, or 200 after."""
    quantizer = ActivationQuantizer(8)
    quantizer.set_range(0.0, 25.5)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = quantizer(torch.tensor([[20.1]], dtype=torch.bfloat16))
    assert rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(20.1, abs=1e-5)


def test_minus_infinity_moves_no_step() -> None:
    """Attention masks hold it: 0 times infinity is no number."""
    x = torch.tensor([-math.inf, 0.5, 1.3])
    step = torch.tensor(0.1, requires_grad=True)
    low, high = torch.tensor(-128.0), torch.tensor(127.0)
    learned_step(x, step, low, high, 3)[1:].sum().backward()
    with_mask = step.grad
    step.grad = None
    learned_step(x[1:], step, low, high, 3).sum().backward()
    assert torch.equal(with_mask, step.grad)
