"""A task's own functions, called on a few examples before any long work: some are otherwise asked hours later."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import nn

from pocketpipe.errors import UserError, first_line
from pocketpipe.samples import targets_tensor, to_tensor
from pocketpipe.task import Split, Task
from pocketpipe.training.inference import predict

FEW = 256
"""Examples: enough that classes that a metric is told of are among them, as a rule."""


def rehearse(task: Task, network: nn.Module, split: Split) -> None:
    """Hold what `loss`, `scores`, `metric_by_class` and `agreement` say of `network` on the first examples of `split`
    against what they promise. Raises UserError that names the function.
    """
    examples, targets = split.inputs[:FEW], split.targets[:FEW]
    outputs = predict(network, task, examples)
    laid_out = torch.from_numpy(np.ascontiguousarray(outputs))

    def loss() -> Any:
        return task.loss(laid_out, targets_tensor(targets), smoothing=0.0)

    of_task = f"task {type(task).__name__}"
    found = _called(of_task, "loss", loss)
    if not (isinstance(found, torch.Tensor) and found.numel() == 1 and found.is_floating_point()):
        raise _other(of_task, "loss", found, "a tensor of one real number")
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


def _called(task: str, function: str, call: Callable[[], Any]) -> Any:
    try:
        with warnings.catch_warnings(action="ignore"):  # of means over classes that these few examples do not have
            return call()
    except Exception as error:  # the function is the user's, and may fail in any way
        raise UserError(f"{task}: {function} fails on the first examples ({first_line(error)})") from error


def _other(task: str, function: str, found: Any, expected: str) -> UserError:
    shape = f" of shape {tuple(found.shape)}" if isinstance(found, np.ndarray | torch.Tensor) else ""
    value = shape or f" {found!r}"
    return UserError(f"{task}: {function} returns a {type(found).__name__}{value} where {expected} is wanted")
