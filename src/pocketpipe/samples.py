"""Examples of a split as what a network reads: prepared tensors."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from math import ceil, prod
from typing import TYPE_CHECKING

import numpy as np

ELEMENTS = 2**22
"""Numbers that inputs may have together where how many are taken at once changes nothing but memory: a network makes
tens of times as many of them on the way."""

if TYPE_CHECKING:
    from torch import Generator, Tensor, device

    from pocketpipe.task import Preprocessing, Split, Task


def to_tensor(array: np.ndarray) -> Tensor:
    """The array as a tensor; the memory is shared where NumPy allows writing to it, in this machine's order of bytes.

    Unsigned numbers of 16 and 32 bits become signed ones that hold them: torch cannot pick examples of the former.
    """
    import torch

    native = array.dtype.newbyteorder("=")
    array = array.astype({"uint16": np.int32, "uint32": np.int64}.get(array.dtype.name, native), copy=False)
    return torch.from_numpy(array if array.flags.writeable and array.flags.c_contiguous else array.copy())


def targets_tensor(targets: np.ndarray) -> Tensor:
    """Targets as losses take them: numbers in float32, as a network's outputs are; NumPy's own are float64."""
    tensor = to_tensor(targets)
    return tensor.float() if tensor.is_floating_point() else tensor


def prepared(preprocessing: Preprocessing, inputs: Tensor) -> Tensor:
    """`preprocessing(inputs)` on the inputs' device, float32; images (N, C, H, W) lie channels last."""
    import torch

    mean, std = (_along_axis_0(v, inputs.ndim, inputs.device) for v in (preprocessing.mean, preprocessing.std))
    result = inputs.to(torch.float32, copy=True).mul_(preprocessing.scale).sub_(mean).div_(std)
    return result.contiguous(memory_format=torch.channels_last) if result.ndim == 4 else result


@lru_cache(maxsize=64)
def _along_axis_0(numbers: tuple[float, ...], axes: int, device: device) -> Tensor:
    """Shaped like a batch of so many axes. Kept: a GPU waits for what is copied to it, and batches are many."""
    import torch

    with torch.inference_mode(False):  # made while a network is tried, it serves in training too
        return torch.tensor(numbers, dtype=torch.float32, device=device).reshape((-1,) + (1,) * (axes - 2))


def training_view(task: Task, inputs: np.ndarray, targets: np.ndarray, generator: Generator) -> Tensor:
    """An augmented view of stored inputs, prepared, on CPU; what is stored stays as it is."""
    view, _ = task.augment_both(to_tensor(inputs).clone(), targets_tensor(targets).clone(), generator)
    return prepared(task.preprocessing, view)


def even_parts(split: Split, limit: int, at_once: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(inputs, targets) of the first `limit` examples, in parts of `at_once` at most that are alike in size: where
    BatchNorm goes by each part's statistics, or each counts the same."""
    count = ceil(min(limit, len(split)) / at_once)
    yield from zip(*(np.array_split(each[:limit], count) for each in (split.inputs, split.targets)), strict=True)


def prepared_batches(task: Task, split: Split, batch_size: int, limit: int | None = None) -> Iterator[Tensor]:
    """Network inputs of the split (its first `limit` examples), in its order, unaugmented, on CPU.

    The last batch may be smaller.
    """
    for part in in_batches(split.inputs[:limit], batch_size):
        yield prepared(task.preprocessing, to_tensor(part))


def examples_at_once(input_shape: tuple[int, ...], *, fewest: int, most: int) -> int:
    """How many examples a network is given at once: `most`, or fewer where one is large, but `fewest`.

    >>> examples_at_once((3, 32, 32), fewest=1, most=512), examples_at_once((3, 512, 512), fewest=1, most=512)
    (512, 5)
    """
    return max(fewest, min(most, ELEMENTS // prod(input_shape)))


def in_batches(inputs: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """The array in pieces of `size` along its first axis."""
    for start in range(0, len(inputs), size):
        yield inputs[start : start + size]
