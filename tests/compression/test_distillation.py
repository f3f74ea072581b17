"""The distillation loss against its formula in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pocketpipe.compression.distillation import distillation_loss


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


@pytest.mark.parametrize("shape", [(6, 10), (3, 4, 7)])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_formula(shape: tuple[int, ...], temperature: float) -> None:
    chance = np.random.default_rng(0)
    student, teacher = chance.normal(size=(2, *shape)) * 3
    p, q = _softmax(teacher / temperature), _softmax(student / temperature)
    expected = temperature**2 * (p * np.log(p / q)).sum(-1).mean()
    found = distillation_loss(torch.from_numpy(student), torch.from_numpy(teacher), temperature)
    assert found.item() == pytest.approx(expected, rel=1e-9)


def test_the_gradient_keeps_its_size_when_the_temperature_grows() -> None:
    """Hinton et al.: at high temperature the gradient is (z - v) / classes, independent of T."""
    student = torch.tensor([[1.0, -1.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[0.5, 0.5, -1.0]], requires_grad=True)
    distillation_loss(student, teacher, 1000.0).backward()
    assert student.grad is not None
    assert torch.allclose(student.grad, (student - teacher).detach() / 3, atol=1e-3)
    assert teacher.grad is None


def test_a_temperature_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="above 0"):
        distillation_loss(torch.zeros(1, 2), torch.zeros(1, 2), 0.0)
