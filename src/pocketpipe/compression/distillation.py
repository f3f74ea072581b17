"""Distillation: the student learns from what teachers answer, and from what they make on the way."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Divergence between softened outputs (Hinton et al. 2015): T^2 KL(teacher || student), mean over examples.

    `student` and `teacher` are logits (N, classes) or (N, positions, classes), softened along the last axis. T^2 keeps
    the gradient's size when the temperature changes. Gradients do not flow into the teacher.

    >>> logits = torch.tensor([[2.0, 0.0, -1.0]])
    >>> distillation_loss(logits, logits, 4.0).item()
    0.0
    """
    _refuse_cold(temperature)
    divergence = _divergence(teacher.detach() / temperature, student / temperature)
    return divergence.mean() * temperature**2


def decoupled_loss(
    student: Tensor, teacher: Tensor, targets: Tensor, temperature: float, *, alpha: float, beta: float
) -> Tensor:
    """DKD (Zhao et al. 2022): T^2 (alpha TCKD + beta NCKD), mean over examples.

    TCKD compares how sure both are of the target, NCKD how they share the rest among the other classes. Hinton's loss
    is TCKD + (1 - p) NCKD, p the teacher's softened share of the target: a sure teacher hides the rest, here it counts.
    Shapes as in `distillation_loss`; `targets` (N,) or (N, positions) are classes. Gradients do not flow into the
    teacher. Raises ValueError for targets that are no classes.
    """
    _refuse_cold(temperature)
    _refuse_other_than_classes(student, targets)
    targets = targets.long()  # masks are often bytes, which no index may be
    student, teacher = student / temperature, teacher.detach() / temperature
    others = _other_classes(targets, student.shape[-1])
    on_target = _divergence(_target_or_not(teacher, targets, others), _target_or_not(student, targets, others))
    off_target = _divergence(teacher.gather(-1, others), student.gather(-1, others))
    return (alpha * on_target + beta * off_target).mean() * temperature**2


def corrected(teacher: Tensor, targets: Tensor) -> Tensor:
    """The teacher's logits; where it is wrong, the target's has changed places with the largest.

    Probability shift (Wen et al. 2019, "Preparing Lessons"): the right answer comes first, and what the teacher knows
    of the other classes is kept. Shapes as in `decoupled_loss`; raises ValueError for targets that are no classes.

    >>> corrected(torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0]]), torch.tensor([1, 0]))
    tensor([[1., 3., 2.],
            [3., 1., 2.]])
    """
    _refuse_other_than_classes(teacher, targets)
    target, best = targets.long().unsqueeze(-1), teacher.argmax(-1, keepdim=True)
    of_target, largest = teacher.gather(-1, target), teacher.gather(-1, best)
    return teacher.scatter(-1, best, of_target).scatter(-1, target, largest)


def merged_logits(teachers: Sequence[Tensor], temperature: float) -> Tensor:
    """Logits whose softened outputs at `temperature` are the mean of those of `teachers`; of one, its own.

    They are T times the logarithm of that mean, so every loss that softens at T takes them as one teacher's.

    >>> sure, unsure = torch.tensor([[4.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    >>> merged = merged_logits([sure, unsure], 2.0)
    >>> mean = ((sure / 2).softmax(1) + (unsure / 2).softmax(1)) / 2
    >>> torch.allclose((merged / 2).softmax(1), mean)
    True
    """
    if len(teachers) == 1:
        return teachers[0]
    logs = torch.stack([functional.log_softmax(logits.float() / temperature, dim=-1) for logits in teachers])
    return temperature * (logs.logsumexp(0) - torch.tensor(float(len(teachers))).log().to(logs.device))


def attention_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Attention transfer (Zagoruyko and Komodakis 2017): squared distance of attention maps, mean over examples.

    `student` and `teacher` are feature maps (N, channels, *positions), or (N, positions, channels) with three axes; the
    channels may differ in number. It lies between 0 and 2 at any resolution; the authors divide by the positions
    besides, by which one weight is 16 times as strong on maps of 8x8 as on those of 32x32. Gradients do not flow into
    the teacher.
    """
    return (attention_map(student) - attention_map(teacher.detach())).square().sum(1).mean()


def attention_map(features: Tensor) -> Tensor:
    """(N, positions): the sum of squares over channels, at length 1 (section 3.1 there). Shapes as in `channels_last`.

    >>> attention_map(torch.tensor([[[[3.0, 0.0]], [[0.0, 2.0]]]]))  # two channels of 1x2: squares 9 and 4
    tensor([[0.9138, 0.4061]])
    """
    return functional.normalize(channels_last(features).float().square().sum(-1).flatten(1), dim=1)


def hint_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Hints (FitNets, Romero et al. 2015, eq. 3): half the squared distance of features, mean over elements.

    Both have the same shape: where widths differ, `student` has gone through a regressor. Gradients do not flow into
    the teacher. Raises ValueError for different shapes.
    """
    if student.shape != teacher.shape:
        raise ValueError(f"features of the student {tuple(student.shape)}, of the teacher {tuple(teacher.shape)}")
    return (student.float() - teacher.detach().float()).square().mean() / 2


def channels_last(features: Tensor) -> Tensor:
    """Channels as the last axis: moved there from (N, channels, *positions), left there in (N, positions, channels)."""
    return features if features.ndim == 3 else features.movedim(1, -1)


def _divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(teacher || student) of logits along the last axis, for each example and position."""
    log_student, log_teacher = functional.log_softmax(student, dim=-1), functional.log_softmax(teacher, dim=-1)
    return functional.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(-1)


def _target_or_not(logits: Tensor, targets: Tensor, others: Tensor) -> Tensor:
    """Logits of two classes: the target, and all others together."""
    on_target = logits.gather(-1, targets.unsqueeze(-1))
    return torch.cat([on_target, logits.gather(-1, others).logsumexp(-1, keepdim=True)], dim=-1)


def _other_classes(targets: Tensor, classes: int) -> Tensor:
    """(..., classes - 1): all classes but the target, ascending."""
    below = torch.arange(classes - 1, device=targets.device)
    return below + (below >= targets.unsqueeze(-1))


def _refuse_other_than_classes(outputs: Tensor, targets: Tensor) -> None:
    if targets.shape != outputs.shape[:-1] or targets.is_floating_point():
        raise ValueError(f"targets {tuple(targets.shape)} of outputs {tuple(outputs.shape)} are no classes")


def _refuse_cold(temperature: float) -> None:
    if temperature <= 0:
        raise ValueError(f"temperature {temperature} must be above 0")
