"""Examples of a split as what a network reads: prepared tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from pocketpipe.task import Preprocessing, Split, Task


def to_tensor(array: np.ndarray) -> Tensor:
    """The array as a tensor; the memory is shared where NumPy allows writing to it."""
    import torch

    return torch.from_numpy(array if array.flags.writeable and array.flags.c_contiguous else array.copy())


def prepared(preprocessing: Preprocessing, inputs: Tensor) -> Tensor:
    """`preprocessing(inputs)` on the inputs' device, float32; images (N, C, H, W) lie channels last."""
    import torch

    shape = (-1,) + (1,) * (inputs.ndim - 2)
    mean, std = (torch.tensor(v, device=inputs.device).reshape(shape) for v in (preprocessing.mean, preprocessing.std))
    result = inputs.to(torch.float32, copy=True).mul_(preprocessing.scale).sub_(mean).div_(std)
    return result.contiguous(memory_format=torch.channels_last) if result.ndim == 4 else result


def prepared_batches(task: Task, split: Split, batch_size: int, limit: int | None = None) -> Iterator[Tensor]:
    """Network inputs of the split (its first `limit` examples), in its order, unaugmented, on CPU.

    The last batch may be smaller.
    """
    for part in in_batches(split.inputs[:limit], batch_size):
        yield prepared(task.preprocessing, to_tensor(part))


def in_batches(inputs: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """The array in pieces of `size` along its first axis."""
    for start in range(0, len(inputs), size):
        yield inputs[start : start + size]
