"""A task's functions are tried before any long work, and what does not keep its promise is named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pocketpipe.errors import UserError
from pocketpipe.network import StoredNetwork
from pocketpipe.training.rehearsal import rehearse
from training.samples import Blobs, blobs

NETWORK = StoredNetwork("training.samples:plain").build(Blobs())


def test_a_right_task_passes() -> None:
    rehearse(Blobs(), NETWORK, blobs("val", 12, 0))


def of_all(outputs: np.ndarray, targets: np.ndarray) -> Any:
    return np.float64((outputs.argmax(1) == targets).mean())


def by_class(outputs: np.ndarray, targets: np.ndarray) -> Any:
    return np.zeros((len(outputs), 4))


def without_smoothing(outputs: torch.Tensor, targets: torch.Tensor) -> Any:
    return torch.nn.functional.cross_entropy(outputs, targets)


def as_floats(inputs: torch.Tensor, targets: torch.Tensor, generator: torch.Generator) -> Any:
    return inputs, targets.float()


def each(outputs: torch.Tensor, targets: torch.Tensor, *, smoothing: float = 0.0) -> Any:
    return torch.nn.functional.cross_entropy(outputs, targets, reduction="none")


@pytest.mark.parametrize(
    ("function", "broken", "reason"),
    [
        ("scores", of_all, r"scores returns a float64 .* where an array \(12,\)"),
        ("scores", by_class, r"scores returns a ndarray of shape \(12, 4\) where an array"),
        ("loss", each, r"loss returns a Tensor of shape \(12,\) where a tensor of one real number"),
        ("loss", without_smoothing, r"loss fails on the first examples \(.*smoothing"),
        ("augment_both", as_floats, "augment_both returns a tuple"),
        ("metric_by_class", lambda outputs, targets: None, "metric_by_class returns a NoneType None where a dict"),
        ("agreement", lambda outputs, reference: 0.5, "agreement returns a float 0.5 where 1.0"),
        ("agreement", lambda outputs, reference: 1 / 0, r"agreement fails on the first examples \(division by zero"),
    ],
)
def test_a_broken_function_is_named(function: str, broken: Any, reason: str) -> None:
    task = Blobs()
    setattr(task, function, broken)
    with pytest.raises(UserError, match=f"task Blobs: {reason}"):
        rehearse(task, NETWORK, blobs("val", 12, 0))
