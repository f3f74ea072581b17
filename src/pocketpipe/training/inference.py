"""Running a network on a split: outputs, metric, and the batches that BatchNorm is re-estimated on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from pocketpipe.task import Split, Task
from pocketpipe.training.batches import prepared, to_tensor


def predict(network: nn.Module, task: Task, inputs: np.ndarray, batch_size: int = 512) -> np.ndarray:
    """Outputs (N, ...) as float32 for stored inputs (N, *input_shape), in eval mode on the network's device."""
    device = next((tensor.device for tensor in network.parameters()), torch.device("cpu"))
    was_training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            outputs = [
                network(prepared(task.preprocessing, to_tensor(part).to(device))).float().cpu()
                for part in _parts(inputs, batch_size)
            ]
    finally:
        network.train(was_training)
    return torch.cat(outputs).numpy()


def metric_of(network: nn.Module, task: Task, split: Split) -> float:
    """The task's metric of `network` on `split`."""
    return task.metric(predict(network, task, split.inputs), split.targets)


def prepared_batches(task: Task, split: Split, batch_size: int) -> Iterator[Tensor]:
    """Network inputs of the split, in its order, unaugmented, on CPU; the last batch may be smaller."""
    for part in _parts(split.inputs, batch_size):
        yield prepared(task.preprocessing, to_tensor(part))


def _parts(inputs: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(inputs), size):
        yield inputs[start : start + size]
