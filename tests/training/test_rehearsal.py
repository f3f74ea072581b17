"""A task's functions are tried before any long work, and what does not keep its promise is named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pocketpipe.errors import UserError
from pocketpipe.network import StoredNetwork
from pocketpipe.task import Preprocessing
from pocketpipe.training.rehearsal import rehearse
from training.samples import RECIPE, SETTINGS, Blobs, blobs, normalized, plain

NETWORK = StoredNetwork("training.samples:plain").build(Blobs())


def test_a_right_task_passes() -> None:
    rehearse(Blobs(), NETWORK, blobs("val", 12, 0), RECIPE, SETTINGS)


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
        rehearse(task, NETWORK, blobs("val", 12, 0), RECIPE, SETTINGS)


BF16 = SETTINGS.model_copy(update={"accelerator": "cpu", "precision": "bf16"})


class Counted(nn.Module):
    """Adds what it makes to a table of its own, which is float32 wherever it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.body = plain((1, 6, 6), 4)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        table, made = torch.zeros(len(inputs), 4), self.body(inputs)
        return table.index_add(0, torch.arange(len(inputs)), made)


def test_a_step_is_taken_in_the_precision_of_the_training() -> None:
    rehearse(Blobs(), Counted(), blobs("val", 12, 0), RECIPE, SETTINGS.model_copy(update={"precision": "fp32"}))
    told = r"network: its forward fails in a training step on cpu in bf16 \(.*set trainer.precision: fp32"
    with pytest.raises(UserError, match=told) as said:
        rehearse(Blobs(), Counted(), blobs("val", 12, 0), RECIPE, BF16)
    assert "\n" not in str(said.value)


def test_what_fails_in_fp32_too_is_not_put_down_to_bf16() -> None:
    class WithGradients(Blobs):
        def loss(self, outputs: torch.Tensor, targets: torch.Tensor, *, smoothing: float = 0.0) -> torch.Tensor:
            if outputs.requires_grad:
                raise ArithmeticError("only without gradients")
            return super().loss(outputs, targets, smoothing=smoothing)

    with pytest.raises(UserError, match="task WithGradients: loss fails in a training step on cpu in bf16") as said:
        rehearse(WithGradients(), NETWORK, blobs("val", 12, 0), RECIPE, BF16)
    assert "trainer.precision" not in str(said.value)


def test_a_backward_that_cannot_be_had_is_named() -> None:
    class Rounded(Blobs):
        def loss(self, outputs: torch.Tensor, targets: torch.Tensor, *, smoothing: float = 0.0) -> torch.Tensor:
            return super().loss(outputs.detach(), targets, smoothing=smoothing)

    with pytest.raises(UserError, match="network: its backward fails in a training step"):
        rehearse(Rounded(), NETWORK, blobs("val", 12, 0), RECIPE, SETTINGS)


def test_the_network_and_the_generator_stay_as_they_are() -> None:
    network = normalized((1, 6, 6), 4)
    before, state = {name: tensor.clone() for name, tensor in network.state_dict().items()}, torch.get_rng_state()
    rehearse(Blobs(), network, blobs("val", 1, 0), RECIPE, BF16)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_loss_that_is_no_number_has_its_own_line() -> None:
    task = Blobs()
    task.preprocessing = Preprocessing(std=(0.0,))
    with pytest.raises(UserError, match="task Blobs: loss is nan on the first examples, as the network's outputs are"):
        rehearse(task, NETWORK, blobs("val", 12, 0), RECIPE, SETTINGS)

    class Logarithm(Blobs):
        def loss(self, outputs: torch.Tensor, targets: torch.Tensor, *, smoothing: float = 0.0) -> torch.Tensor:
            return (0 * outputs).sum().log()

    with pytest.raises(UserError, match="task Logarithm: loss is -inf on the first examples, of outputs that are num"):
        rehearse(Logarithm(), NETWORK, blobs("val", 12, 0), RECIPE, SETTINGS)
