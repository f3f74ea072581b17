"""Discrimination-aware selection (DCP, Zhuang et al. 2018): channels that keep outputs, and keep classes apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from pocketpipe.compression.members import ReadingModule, readers
from pocketpipe.compression.refitting import fitted
from pocketpipe.compression.sampling import channels_last, columns_of, input_rows, sampled, watched
from pocketpipe.compression.tracing import TracedGroup
from pocketpipe.compression.weights import bare
from pocketpipe.errors import UserError
from pocketpipe.task import Task

ROUNDS = 16
"""In how many rounds all channels of a group are put into order; each adds as many as the others."""
EXAMPLES = 128
"""Calibration examples, the first ones, whose classes are to be kept apart."""
ROWS = 4096
"""Sampled positions over all examples, for the reconstruction."""
HEAD_STEPS, HEAD_RATE, HEAD_MOMENTUM = 60, 0.5, 0.9
"""How an auxiliary classifier is trained: full-batch SGD from zero weights, so that no seed is needed."""
WEIGHT = 0.1
"""Of the discrimination loss beside the relative error of the reconstruction."""
SEED = 0


@dataclass(frozen=True)
class Head:
    """Auxiliary classifier on a layer's output: normalized, ReLU, averaged over positions, one linear layer."""

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor

    def __call__(self, output: Tensor) -> Tensor:
        """Logits from the output (examples, ..., channels) of the layer."""
        return functional.linear(_pooled(output, self.mean, self.scale), self.weight, self.bias)


@dataclass
class Selection:
    """One layer that reads the group: what it read and wrote, and its weight with the channels chosen so far."""

    module: ReadingModule
    inputs: Tensor
    columns: Tensor
    """(channels, each) columns of the flat weight."""
    rows: Tensor
    """What the group's columns were multiplied with, in no more rows than columns, relative to the root of the energy
    of what the group adds to the output."""
    full: Tensor
    """The original flat weight."""
    weight: Tensor
    """The same with zeros where the group's channels are not chosen yet."""
    head: Head

    def gradients(self, task: Task, targets: Tensor) -> Tensor:
        """(channels,) squared norm of the gradient of both losses by each channel's weights."""
        weight = self.weight.detach().requires_grad_(True)
        output = functional_call(self.module, {"weight": weight.view_as(self.module.weight)}, (self.inputs,))
        loss = task.loss(self.head(channels_last(self.module, output)), targets)
        (discrimination,) = torch.autograd.grad(loss, weight)
        flat = self.columns.flatten()
        reconstruction = 2 * ((self.weight[:, flat] - self.full[:, flat]).double() @ self.rows.T) @ self.rows
        both = reconstruction + WEIGHT * discrimination[:, flat].double()
        both[self.full[:, flat] == 0] = 0  # what a mask hides gains nothing
        return both.square().sum(0).view(self.columns.shape).sum(1).cpu()

    def choose(self, channels: Tensor) -> None:
        """Least-squares weights for just these channels of the group."""
        flat = self.columns.flatten()
        each = self.columns.shape[1]
        within = (channels[:, None].to(flat.device) * each + torch.arange(each, device=flat.device)).flatten()
        wanted = self.rows @ self.full[:, flat].double().T
        from_nothing = wanted.new_zeros(len(self.full), len(within))
        refitted, _ = fitted(self.rows[:, within], wanted, from_nothing, with_bias=False)
        self.weight[:, flat] = 0
        self.weight[:, flat[within]] = refitted.to(self.weight.dtype)


def by_discrimination(
    network: nn.Module, groups: Sequence[TracedGroup], task: Task, examples: Tensor, targets: Tensor
) -> dict[str, Tensor]:
    """Score (channels,) of each group's channels by the round in which they are chosen.

    Greedy (Zhuang et al. 2018, algorithm 2): next come the channels whose weights, still zero, have the largest
    gradient of the reconstruction's error plus the loss of a classifier trained on the layer's output; then
    the weights of all that are chosen are refitted (here in closed form). Instead of few classifiers along the
    network there is one at each layer that reads the group. `examples` (N, ...) are prepared inputs with their
    `targets`. A group that no convolution or linear layer reads example by example is not in the answer. Raises
    UserError for targets that are no classes.
    """
    if targets.ndim != 1 or targets.is_floating_point():
        raise UserError(
            "channels.criterion: dcp trains classifiers of whole examples, and targets are "
            f"{tuple(targets.shape)} of {targets.dtype} here; choose taylor, say"
        )
    scores = {}
    examples, targets = examples[:EXAMPLES], targets[:EXAMPLES]
    for group in groups:
        if selections := _selections(network, group, task, examples, targets):
            scores[group.name] = _greedy(group.channels, selections, task, targets)
    return scores


def _greedy(channels: int, selections: Sequence[Selection], task: Task, targets: Tensor) -> Tensor:
    scores = torch.zeros(channels, dtype=torch.float64)
    each = ceil(channels / ROUNDS)
    order: list[int] = []
    while len(order) < channels:
        gradients = torch.stack([selection.gradients(task, targets) for selection in selections]).sum(0)
        gradients[order] = -1
        chosen = torch.sort(gradients, descending=True, stable=True).indices[: min(each, channels - len(order))]
        scores[chosen] = torch.arange(channels - len(order), channels - len(order) - len(chosen), -1).double()
        order += chosen.tolist()
        for selection in selections:
            selection.choose(torch.tensor(order))
    return scores


def _selections(
    network: nn.Module, group: TracedGroup, task: Task, examples: Tensor, targets: Tensor
) -> list[Selection]:
    reading = {reader.layer: reader for reader in readers(network, group)}
    modules = {layer: bare(network.get_submodule(layer)) for layer in reading}  # nothing lies on their weights
    seen: list[Selection] = []
    generator = torch.Generator().manual_seed(SEED)

    def start(layer: str, module: ReadingModule, inputs: Tensor, output: Tensor) -> None:
        if len(output) != len(targets):
            return  # its first axis is not the examples (steps, windows): there is no telling whose outputs these are
        columns = columns_of(module, reading[layer])
        rows = input_rows(module, inputs, sampled(module, output, ROWS, generator))[:, columns.flatten()].double()
        full = module.weight.detach().flatten(1)
        energy = (rows @ full[:, columns.flatten()].double().T).square().sum().clamp_min(1e-30)
        rows = (rows if len(rows) <= rows.shape[1] else torch.linalg.qr(rows, mode="r").R) / energy.sqrt()
        weight = full.clone()
        weight[:, columns.flatten()] = 0
        head = _head(channels_last(module, output), task, targets)
        plain = modules[layer]
        assert isinstance(plain, ReadingModule)
        seen.append(Selection(plain, inputs, columns, rows, full, weight, head))

    with torch.no_grad(), watched(network, reading, start):
        network(examples)
    return seen


def _head(output: Tensor, task: Task, targets: Tensor) -> Head:
    """A classifier trained on the layer's original output (examples, ..., channels)."""
    values = output.flatten(0, -2)
    mean, scale = values.mean(0), values.std(0).clamp_min(1e-6)
    features = _pooled(output, mean, scale)
    classifier = [features.new_zeros(len(task.labels), features.shape[1]), features.new_zeros(len(task.labels))]
    velocities = [torch.zeros_like(tensor) for tensor in classifier]
    for _ in range(HEAD_STEPS):
        with torch.enable_grad():
            leaves = [tensor.detach().requires_grad_(True) for tensor in classifier]
            gradients = torch.autograd.grad(task.loss(functional.linear(features, *leaves), targets), leaves)
        for tensor, velocity, gradient in zip(classifier, velocities, gradients, strict=True):
            velocity.mul_(HEAD_MOMENTUM).add_(gradient)
            tensor.sub_(velocity, alpha=HEAD_RATE)
    return Head(mean, scale, *classifier)


def _pooled(output: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """(examples, channels): ReLU of the normalized output, averaged over positions."""
    return ((output - mean) / scale).relu().flatten(1, -2).mean(1)
