"""Running a network on a split: outputs and metric."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from pocketpipe.compression.modules import device_of, evaluating
from pocketpipe.network import StoredNetwork
from pocketpipe.samples import examples_at_once, in_batches, prepared, to_tensor
from pocketpipe.task import Split, Task
from pocketpipe.training.device import computed
from pocketpipe.training.recipe import TrainerSettings

MOST, ON_CPU = 512, 64
"""Examples at once; fewer, if one is large. What more of them make on the way leaves a CPU's caches: ResNet-56 takes
1.6 times as long for 512 as for 64."""


def predict(network: nn.Module, task: Task, inputs: np.ndarray) -> np.ndarray:
    """Outputs (N, ...) as float32 for stored inputs (N, *input_shape), in eval mode on the network's device."""
    device = device_of(network)
    at_once = examples_at_once(task.input_shape, fewest=1, most=ON_CPU if device.type == "cpu" else MOST)
    outputs: np.ndarray | None = None
    done = 0
    with evaluating(network), torch.inference_mode():
        for part in in_batches(inputs, at_once):
            made = network(prepared(task.preprocessing, to_tensor(part).to(device))).float().cpu().numpy()
            if outputs is None:  # of all at once: those of masks are large, and to join them takes as much again
                outputs = np.empty((len(inputs), *made.shape[1:]), np.float32)
            outputs[done : done + len(made)] = made
            done += len(made)
    assert outputs is not None, "a split has an example"
    assert done == len(inputs), "a network answers to every example"
    return outputs


def metric_of(network: nn.Module, task: Task, split: Split) -> float:
    """The task's metric of `network` on `split`."""
    return float(task.metric(predict(network, task, split.inputs), split.targets))  # NumPy's are not read back


def score_of(network: StoredNetwork, task: Task, split: Split, settings: TrainerSettings) -> float:
    """The same of a stored network, computed where trainings run."""
    return computed(settings, network.build(task), lambda built: metric_of(built, task, split))
