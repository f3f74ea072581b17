"""What is learned from teachers: every loss against its formula in NumPy, gradients that stop at the teacher."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pocketpipe.compression.distillation import (
    attention_loss,
    attention_map,
    corrected,
    decoupled_loss,
    distillation_loss,
    hint_loss,
    merged_logits,
)


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


def _parts_of_dkd(student: np.ndarray, teacher: np.ndarray, targets: np.ndarray, t: float) -> tuple[np.ndarray, ...]:
    """(TCKD, NCKD, the teacher's share of the target) of each row, as in eq. 5 to 7 of Zhao et al."""
    p, q = _softmax(teacher / t), _softmax(student / t)
    rows = np.arange(len(targets))
    p_target, q_target = p[rows, targets], q[rows, targets]
    tckd = p_target * np.log(p_target / q_target) + (1 - p_target) * np.log((1 - p_target) / (1 - q_target))
    others = np.arange(p.shape[1]) != targets[:, None]
    p_other = p[others].reshape(len(p), -1) / (1 - p_target)[:, None]
    q_other = q[others].reshape(len(q), -1) / (1 - q_target)[:, None]
    return tckd, (p_other * np.log(p_other / q_other)).sum(1), p_target


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 8.0), (0.0, 1.0), (1.0, 0.0)])
def test_dkd_is_its_formula(alpha: float, beta: float) -> None:
    chance = np.random.default_rng(1)
    student, teacher = chance.normal(size=(2, 9, 10)) * 4
    targets = chance.integers(0, 10, 9)
    tckd, nckd, _ = _parts_of_dkd(student, teacher, targets, 3.0)
    found = decoupled_loss(*map(torch.from_numpy, (student, teacher, targets)), 3.0, alpha=alpha, beta=beta)
    assert found.item() == pytest.approx(9.0 * (alpha * tckd + beta * nckd).mean(), rel=1e-9)


def test_hintons_loss_is_tckd_and_what_the_teacher_leaves_of_nckd() -> None:
    chance = np.random.default_rng(2)
    student, teacher = chance.normal(size=(2, 7, 5)) * 3
    targets = chance.integers(0, 5, 7)
    tckd, nckd, p_target = _parts_of_dkd(student, teacher, targets, 2.0)
    hinton = distillation_loss(torch.from_numpy(student), torch.from_numpy(teacher), 2.0)
    assert hinton.item() == pytest.approx(4.0 * (tckd + (1 - p_target) * nckd).mean(), rel=1e-9)


def test_dkd_of_positions_is_that_of_rows_and_of_two_classes_has_no_others() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, 6, generator=generator)
    targets = torch.randint(0, 6, (3, 4), generator=generator)
    whole = decoupled_loss(student, teacher, targets, 4.0, alpha=1.0, beta=8.0)
    rows = decoupled_loss(student.flatten(0, 1), teacher.flatten(0, 1), targets.flatten(), 4.0, alpha=1.0, beta=8.0)
    assert whole.item() == pytest.approx(rows.item(), rel=1e-6)
    pair, target = torch.tensor([[1.0, -1.0]]), torch.tensor([1])
    assert decoupled_loss(pair, -pair, target, 1.0, alpha=0.0, beta=1.0).item() == 0.0


def test_dkd_of_a_teacher_without_doubt_is_finite_with_finite_gradients() -> None:
    student = torch.zeros(2, 3, requires_grad=True)
    sure = torch.tensor([[200.0, 0.0, 0.0], [0.0, 0.0, 200.0]])
    loss = decoupled_loss(student, sure, torch.tensor([0, 1]), 1.0, alpha=1.0, beta=8.0)
    loss.backward()
    assert student.grad is not None
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


def test_dkd_needs_classes() -> None:
    with pytest.raises(ValueError, match="no classes"):
        decoupled_loss(torch.zeros(4, 3), torch.zeros(4, 3), torch.zeros(4, 3), 1.0, alpha=1.0, beta=1.0)


def test_several_teachers_are_the_mean_of_what_they_say() -> None:
    chance = np.random.default_rng(3)
    logits = chance.normal(size=(3, 5, 4)) * 5
    merged = merged_logits([torch.from_numpy(each).float() for each in logits], 2.5)
    expected = np.mean([_softmax(each / 2.5) for each in logits], axis=0)
    assert np.abs(_softmax(merged.numpy() / 2.5) - expected).max() < 1e-6
    only = torch.from_numpy(logits[0])
    assert merged_logits([only], 2.5) is only


def test_an_attention_map_by_hand() -> None:
    features = torch.tensor([[[[1.0, 2.0], [0.0, 0.0]], [[2.0, 0.0], [0.0, 1.0]]]])  # two channels of 2x2
    squares = np.array([1.0 + 4.0, 4.0, 0.0, 1.0])
    assert np.allclose(attention_map(features).numpy(), squares / np.linalg.norm(squares))
    rows = features.flatten(2).transpose(1, 2)  # the same as (N, positions, channels)
    assert torch.equal(attention_map(rows), attention_map(features))


def test_attention_compares_maps_of_different_widths() -> None:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(2, 3, 4, 4, generator=generator, requires_grad=True)
    teacher = torch.randn(2, 8, 4, 4, generator=generator, requires_grad=True)
    maps = [(np.square(each.detach().numpy())).sum(1).reshape(2, -1) for each in (student, teacher)]
    unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in maps]
    loss = attention_loss(student, teacher)
    loss.backward()
    assert loss.item() == pytest.approx(np.square(unit[0] - unit[1]).sum(1).mean(), rel=1e-5)
    assert student.grad is not None
    assert teacher.grad is None
    assert attention_loss(teacher * 3, teacher).item() == pytest.approx(0.0, abs=1e-12)  # strength alone is no matter


def test_hints_are_half_the_mean_squared_difference() -> None:
    student, teacher = torch.tensor([[1.0, 2.0]], requires_grad=True), torch.tensor([[3.0, 2.0]], requires_grad=True)
    hint_loss(student, teacher).backward()
    assert hint_loss(student, teacher).item() == pytest.approx((4.0 + 0.0) / 2 / 2)
    assert student.grad is not None
    assert teacher.grad is None
    with pytest.raises(ValueError, match=r"student \(1, 2\), of the teacher \(1, 3\)"):
        hint_loss(torch.zeros(1, 2), torch.zeros(1, 3))


@pytest.mark.parametrize("shape", [(50, 10), (6, 8, 7)])
def test_corrected_answers_are_right_and_share_the_rest_as_before(shape: tuple[int, ...]) -> None:
    chance = np.random.default_rng(0)
    teacher, targets = chance.normal(size=shape), chance.integers(0, shape[-1], shape[:-1])
    found = corrected(torch.from_numpy(teacher), torch.from_numpy(targets)).numpy()
    assert (found.argmax(-1) == targets).all()
    for before, after, target in zip(
        teacher.reshape(-1, shape[-1]), found.reshape(-1, shape[-1]), targets.flatten(), strict=True
    ):
        best = before.argmax()
        expected = before.copy()
        expected[target], expected[best] = before[best], before[target]
        assert (after == expected).all()


def test_only_answers_about_classes_are_corrected() -> None:
    with pytest.raises(ValueError, match="no classes"):
        corrected(torch.zeros(4, 3), torch.zeros(4, 3))


@pytest.mark.parametrize("kind", [torch.uint8, torch.int16, torch.int32])
def test_classes_may_be_stored_in_any_integers(kind: torch.dtype) -> None:
    student, teacher = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 4, 1, 2, 2, 3])
    assert torch.equal(corrected(teacher, targets.to(kind)), corrected(teacher, targets))
    losses = [decoupled_loss(student, teacher, each, 4.0, alpha=1.0, beta=8.0) for each in (targets.to(kind), targets)]
    assert torch.equal(*losses)
