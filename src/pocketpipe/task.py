"""Task: what a network is for. Data, loss, metric and what counts as agreement; never "is this an image?"."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketpipe.doors import Door, Value
from pocketpipe.errors import Mistakes

if TYPE_CHECKING:
    import torch


AT_ONCE = 2**24
"""Numbers that are looked at together."""


class Preprocessing(Value):
    """Stored input -> network input: `(x * scale - mean) / std`, mean and std along axis 0 of one example.

    >>> rgb = Preprocessing(scale=1 / 255, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    >>> rgb(np.full((1, 3, 2, 2), 255, np.uint8))[0, :, 0, 0].tolist()
    [1.0, 1.0, 1.0]
    """

    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Batch of stored inputs (N, ...) as float32 network inputs of the same shape."""
        shape = (-1,) + (1,) * (inputs.ndim - 2)
        mean, std = (np.asarray(v, np.float32).reshape(shape) for v in (self.mean, self.std))
        prepared = inputs.astype(np.float32)  # a copy, and the only one: a whole split of large images is gigabytes
        prepared *= np.float32(self.scale)
        prepared -= mean
        prepared /= std
        return prepared


@dataclass(frozen=True)
class Split:
    """Examples of one split as whole arrays: `inputs` (N, *input_shape) as stored, `targets` (N, ...).

    `name` says which data it is, for every figure measured on it ("val, 5,000 images of train, seed 0").
    """

    name: str
    inputs: np.ndarray
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.inputs)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over shapes, types and contents; the name is not part of it."""
        digest = hashlib.sha256()
        for array in (self.inputs, self.targets):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def take(self, indices: np.ndarray, name: str | None = None) -> Split:
        """The examples at `indices`, in that order."""
        return Split(name or self.name, self.inputs[indices], self.targets[indices])


@dataclass(frozen=True)
class Splits:
    """All that may be looked at before the plan and the weights are final: no test examples.

    `holdout` is data that given weights have not seen (`task.holdout`); where it is there, plans are chosen on it.
    """

    train: Split
    val: Split
    holdout: Split | None = None

    @property
    def selection(self) -> Split:
        """The split on which plans are compared."""
        return self.holdout if self.holdout is not None else self.val

    @property
    def curves_of(self) -> str:
        """What the curves of a training are measured on, in words."""
        return f"{self.train.name} (loss); {self.val.name} (metric)"


class Task(ABC):
    """What the network is for. A task is rebuilt from its name and options in every stage, never pickled.

    Subclasses set the attributes and implement the methods; classification of anything is
    `pocketpipe.tasks.classification.ClassificationTask`.
    """

    input_shape: tuple[int, ...]
    """Shape of one network input, without the batch axis."""
    labels: tuple[str, ...]
    """One name for each output."""
    preprocessing: Preprocessing
    metric_name: str
    higher_is_better: bool = True
    metric_span: float | None = None
    """From the worst to the best value of the metric: a budget that allows to lose as much is a slip; None = no end."""
    holdouts: tuple[str, ...] = ()
    """Values that `task.holdout` may take besides null."""

    @abstractmethod
    def source_digest(self) -> str:
        """Digest of where the data comes from: changes when the data does, cheap enough to ask at every run."""

    @abstractmethod
    def load(self, *, seed: int, holdout: str | None) -> tuple[Splits, Split]:
        """Read the data: (splits, test). Raises UserError for what is missing or broken, naming the file."""

    @property
    def redraws_splits(self) -> bool:
        """Whether one more example draws all splits anew, so that test may hold what earlier runs have learned."""
        return False

    def refuse_misfits(self, *splits: Split) -> None:
        """Raise Mistakes for examples that are not what this task says they are, a line each."""
        lines = [line for split in splits for line in self._misfits(split)]
        if lines:
            raise Mistakes(lines)

    def _misfits(self, split: Split) -> list[str]:
        """What is wrong with a split, a line each. Extended by tasks that know more of their targets."""
        if not len(split):
            return [f"{split.name}: it has no examples"]
        parts: dict[str, Any] = {"examples": split.inputs, "targets": split.targets}
        others = {what: type(each).__name__ for what, each in parts.items() if not isinstance(each, np.ndarray)}
        if others:
            return [f"{split.name}: {what} are a {kind}; give a NumPy array" for what, kind in others.items()]
        lines = []
        if split.inputs.shape[1:] != tuple(self.input_shape):
            shape = split.inputs.shape[1:]
            lines.append(f"{split.name}: an example has shape {shape}, input_shape is {self.input_shape}")
        for what, array in parts.items():
            if not _is_trainable(array.dtype):
                lines.append(
                    f"{split.name}: {what} are of type {array.dtype}; use numbers of 64 bits or less, no uint64"
                )
            elif broken := _not_finite(array):
                lines.append(f"{split.name}: {broken:,} {what} hold NaN or infinity (the logarithm of 0?)")
        if len(split.targets) != len(split):
            lines.append(f"{split.name}: {len(split)} examples have {len(split.targets)} targets")
        return lines

    def augment(self, inputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Random training view of a whole batch of stored inputs, same shape and dtype. Default: unchanged.

        It leaves targets as they are: what moves them too (a flip, where they are masks) belongs in `augment_both`.
        """
        return inputs

    def augment_both(
        self, inputs: torch.Tensor, targets: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The view, and targets (N, ...) as they are in it, of the same shape. Default: `augment`, targets as given."""
        return self.augment(inputs, generator), targets

    @abstractmethod
    def loss(self, outputs: torch.Tensor, targets: torch.Tensor, *, smoothing: float = 0.0) -> torch.Tensor:
        """Training loss of a batch, a scalar."""

    @abstractmethod
    def scores(self, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Score of each example (N,), whose mean is the metric; paired comparisons use these."""

    def metric(self, outputs: np.ndarray, targets: np.ndarray) -> float:
        """The metric of a batch of outputs (N, ...)."""
        return float(self.scores(outputs, targets).mean(dtype=np.float64))

    @abstractmethod
    def metric_by_class(self, outputs: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """The metric within each class (or whatever slices matter), by name."""

    @abstractmethod
    def agreement(self, outputs: np.ndarray, reference: np.ndarray) -> float:
        """Share of examples (0..1) on which two outputs mean the same."""


def _is_trainable(dtype: np.dtype[Any]) -> bool:
    """Whether torch takes such numbers, and picks examples of them."""
    return dtype.kind in "biuf" and dtype.itemsize <= 8 and dtype.name != "uint64"


def _not_finite(array: np.ndarray) -> int:
    """How many examples of (N, ...) hold what is no number; in parts, since an array may be larger than memory."""
    if not np.issubdtype(array.dtype, np.floating):
        return 0
    at_once = max(1, AT_ONCE * len(array) // max(array.size, 1))
    parts = (array[start : start + at_once] for start in range(0, len(array), at_once))
    return sum(len(part) - int(np.isfinite(part).reshape(len(part), -1).all(1).sum()) for part in parts)


TaskFactory = Callable[..., Task]
"""`build(data_root, **options) -> Task`; options are keyword-only and annotated."""

TASKS: Door[TaskFactory] = Door("task", room="pocketpipe.tasks")


class TaskChoice(Value):
    """The `task` section of a configuration: which task, with which options, and what to choose plans on."""

    name: str
    holdout: str | None = None
    options: dict[str, Any] = {}

    def build(self, data_root: Path) -> Task:
        """The task; `data_root` is the folder that holds this machine's data sets. Raises UserError."""
        return TASKS.resolve(self.name)(data_root, **self.options)
