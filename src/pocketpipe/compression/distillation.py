"""Distillation: the student learns from the teacher's outputs."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Divergence between softened outputs (Hinton et al. 2015): T^2 KL(teacher || student), mean over examples.

    `student` and `teacher` are logits (N, classes) or (N, positions, classes), softened along the last axis. T^2 keeps
    the gradient's size when the temperature changes. Gradients do not flow into the teacher.

    >>> import torch
    >>> logits = torch.tensor([[2.0, 0.0, -1.0]])
    >>> distillation_loss(logits, logits, 4.0).item()
    0.0
    """
    if temperature <= 0:
        raise ValueError(f"temperature {temperature} must be above 0")
    log_student = functional.log_softmax(student / temperature, dim=-1).flatten(0, -2)
    log_teacher = functional.log_softmax(teacher.detach() / temperature, dim=-1).flatten(0, -2)
    divergence = functional.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
    return divergence * temperature**2
