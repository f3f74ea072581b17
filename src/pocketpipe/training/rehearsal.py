"""A task's own functions, called on a few examples before any long work: some are otherwise asked hours later."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import nn

from pocketpipe.compression.modules import no_fast_attention
from pocketpipe.errors import UserError, first_line
from pocketpipe.samples import prepared, targets_tensor, to_tensor
from pocketpipe.task import Split, Task
from pocketpipe.training.device import decide, example_macs
from pocketpipe.training.features import Response
from pocketpipe.training.generators import own_generators
from pocketpipe.training.inference import predict
from pocketpipe.training.layout import channels_last
from pocketpipe.training.objective import Objective
from pocketpipe.training.recipe import Recipe, TrainerSettings

FEW = 256
"""Examples: enough that classes that a metric is told of are among them, as a rule."""
A_STEP = 8
"""Examples of the step that is tried: where it runs and in which numbers matters, not how many there are."""


def rehearse(task: Task, network: nn.Module, split: Split, recipe: Recipe, settings: TrainerSettings) -> None:
    """Hold what `loss`, `scores`, `metric_by_class` and `agreement` say of `network` on the first examples of `split`
    against what they promise; then take a step where, and in the precision in which, a training will take it.

    Raises UserError that names what failed. `network` and the global generators stay as they are.
    """
    gpus = [torch.cuda.current_device()] if settings.accelerator != "cpu" and torch.cuda.is_available() else []
    with own_generators(gpus):
        _rehearse_functions(task, network, split)
        if settings.nodes == 1:  # the others may have a GPU where this one has none
            _rehearse_step(task, network, split, recipe, settings)


def _rehearse_functions(task: Task, network: nn.Module, split: Split) -> None:
    """Raises UserError that names a function of the task and what it says."""
    examples, targets = split.inputs[:FEW], split.targets[:FEW]
    outputs = predict(network, task, examples)
    laid_out = torch.from_numpy(np.ascontiguousarray(outputs))

    def loss() -> Any:
        return task.loss(laid_out, targets_tensor(targets), smoothing=0.0)

    of_task = f"task {type(task).__name__}"
    found = _called(of_task, "loss", loss)
    if not (isinstance(found, torch.Tensor) and found.numel() == 1 and found.is_floating_point()):
        raise _other(of_task, "loss", found, "a tensor of one real number")
    _refuse_no_number(of_task, found, laid_out)
    stored = to_tensor(examples).clone(), targets_tensor(targets).clone()
    views = _called(of_task, "augment_both", lambda: task.augment_both(*stored, torch.Generator().manual_seed(0)))
    like = [(each.shape, each.dtype) for each in (to_tensor(examples), targets_tensor(targets))]
    if not isinstance(views, tuple) or [(each.shape, each.dtype) for each in views] != like:
        raise _other(of_task, "augment_both", views, f"a view and its targets like {like}")
    scores = _called(of_task, "scores", lambda: task.scores(outputs, targets))
    if not (isinstance(scores, np.ndarray) and scores.shape == (len(examples),)):
        raise _other(of_task, "scores", scores, f"an array ({len(examples)},), a number for each of so many examples")
    by_class = _called(of_task, "metric_by_class", lambda: task.metric_by_class(outputs, targets))
    if not (isinstance(by_class, dict) and all(isinstance(each, Real) for each in by_class.values())):
        raise _other(of_task, "metric_by_class", by_class, "a dict of names and numbers")
    share = _called(of_task, "agreement", lambda: task.agreement(outputs, outputs))
    if not (isinstance(share, Real) and abs(float(share) - 1.0) < 1e-6):
        raise _other(of_task, "agreement", share, "1.0 for outputs held against themselves")


def _rehearse_step(task: Task, network: nn.Module, split: Split, recipe: Recipe, settings: TrainerSettings) -> None:
    """Raises UserError that says what fails, and which setting avoids it where that is known."""
    uncompiled = settings.model_copy(update={"compile": "never"})
    macs = example_macs(network, task.input_shape)
    execution = decide(uncompiled, macs, recipe.batch_size // settings.ranks, steps=1)
    device = torch.device("cuda" if execution.accelerator == "gpu" else "cpu")
    student = channels_last(copy.deepcopy(network)).to(device).train()
    examples = split.take(np.arange(A_STEP) % len(split))  # a BatchNorm wants several, and a small split has one
    try:
        _step(task, student, examples, recipe, device, bf16=execution.bf16)
    except UserError as error:
        if execution.bf16 and _passes_in_fp32(task, student, examples, recipe, device):
            raise UserError(f"{error}; in fp32 it does not: set trainer.precision: fp32") from error
        raise


def _passes_in_fp32(task: Task, student: nn.Module, examples: Split, recipe: Recipe, device: torch.device) -> bool:
    try:
        _step(task, student, examples, recipe, device, bf16=False)
    except UserError:
        return False
    return True


def _step(task: Task, student: nn.Module, examples: Split, recipe: Recipe, device: torch.device, *, bf16: bool) -> None:
    """View, forward, loss and backward, as a training has them. Raises UserError that names what fails."""
    of_task = f"task {type(task).__name__}"
    when = f"in a training step on {device.type} in {'bf16' if bf16 else 'fp32'}"
    stored = to_tensor(examples.inputs).to(device), targets_tensor(examples.targets).to(device)
    generator = torch.Generator(device).manual_seed(0)
    view, targets = _called(of_task, "augment_both", lambda: task.augment_both(*stored, generator), when)
    inputs = prepared(task.preprocessing, view)
    with no_fast_attention():
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            outputs = _called("network", "its forward", lambda: student(inputs), when)
            objective = Objective(task, recipe)
            loss = _called(of_task, "loss", lambda: objective(Response(outputs), None, targets, 0.0), when)
        _refuse_no_number(of_task, loss, outputs)
        _called("network", "its backward", loss.backward, when)


def _refuse_no_number(task: str, loss: torch.Tensor, outputs: torch.Tensor) -> None:
    if bool(torch.isfinite(loss)):
        return
    numbers = bool(torch.isfinite(outputs).all())
    reason = "of outputs that are numbers (the logarithm of 0?)" if numbers else "as the network's outputs are none"
    raise UserError(f"{task}: loss is {float(loss)} on the first examples, {reason}; no training can begin with that")


def _called(who: str, function: str, call: Callable[[], Any], when: str = "on the first examples") -> Any:
    try:
        with warnings.catch_warnings(action="ignore"):  # of means over classes that these few examples do not have
            return call()
    except Exception as error:  # the function is the user's, and may fail in any way
        elsewhere = "on the same device" in str(error)
        hint = "; make tensors on the device of those given (device=outputs.device)" if elsewhere else ""
        raise UserError(f"{who}: {function} fails {when} ({first_line(error)}){hint}") from error


def _other(task: str, function: str, found: Any, expected: str) -> UserError:
    shape = f" of shape {tuple(found.shape)}" if isinstance(found, np.ndarray | torch.Tensor) else ""
    value = shape or f" {found!r}"
    return UserError(f"{task}: {function} returns a {type(found).__name__}{value} where {expected} is wanted")
