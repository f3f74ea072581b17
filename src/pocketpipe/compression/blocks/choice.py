"""Which blocks go first: by what their removal does to the loss, by what they do to their input, or by their place."""

from __future__ import annotations

import copy
import hashlib
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, get_args
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from pocketpipe.compression.batchnorm import batch_statistics
from pocketpipe.compression.modules import device_of, hooked, with_gradients
from pocketpipe.compression.taking_out import emptied, swapped
from pocketpipe.samples import even_parts, examples_at_once, prepared, targets_tensor, to_tensor

if TYPE_CHECKING:
    from pocketpipe.task import Split, Task

Criterion = Literal["loss", "taylor", "similarity", "last", "random"]
CRITERIA: tuple[Criterion, ...] = get_args(Criterion)
BATCH, FEWEST = 256, 32
"""Examples at once, and at least these however large one is: BatchNorm's statistics come from them."""

Quotas = Mapping[tuple[str, ...], int]
"""For each run of blocks, by their paths, how many of them may go."""

Losses = dict[frozenset[str], float]
"""The loss without these blocks."""
_LOSSES: WeakKeyDictionary[nn.Module, dict[str, Losses]] = WeakKeyDictionary()
"""For each network, by a digest of its weights and of the examples."""


@dataclass(frozen=True)
class Chooser:
    """Chooses blocks of `network` on the first `examples` of `data`; the network is left as it is."""

    network: nn.Module
    task: Task
    data: Split
    examples: int
    seed: int

    def order(self, criterion: Criterion, quotas: Quotas, count: int) -> tuple[str, ...]:
        """The first `count` blocks that go, first one first."""
        return tuple(islice(self.in_order(criterion, quotas), count))

    def in_order(self, criterion: Criterion, quotas: Quotas) -> Iterator[str]:
        """The blocks that go, first one first; a greedy criterion looks no further than is asked for."""
        if criterion == "loss":
            yield from self._greedily(quotas)
            return
        paths = [path for run in quotas for path in run]
        scores = self._scores(criterion, paths)
        chosen: list[str] = []
        for path in sorted(paths, key=lambda path: scores[path]):
            if path in _open(quotas, chosen):
                chosen.append(path)
                yield path

    def _scores(self, criterion: Criterion, paths: Sequence[str]) -> Mapping[str, float]:
        """What each block is worth; those that are worth least go first."""
        match criterion:
            case "taylor":
                return taylor(self._copy(), paths, self._batches(), self.task)
            case "similarity":
                return dissimilarity(self._copy(), paths, self._batches())
            case "last":
                return {path: -position for position, path in enumerate(paths)}
            case _:
                shuffled = random.Random(self.seed).sample(range(len(paths)), len(paths))
                return dict(zip(paths, shuffled, strict=True))

    def _greedily(self, quotas: Quotas) -> Iterator[str]:
        network, batches, known = self._copy(), list(self._batches()), self._known_losses()

        def loss(paths: frozenset[str]) -> float:
            if paths not in known:
                known[paths] = loss_without(network, paths, batches, self.task)
            return known[paths]

        chosen: list[str] = []
        while left := _open(quotas, chosen):
            chosen.append(min(left, key=lambda path: loss(frozenset((*chosen, path)))))
            yield chosen[-1]

    def _known_losses(self) -> Losses:
        """What was measured on this very network and data before: a search asks for many parts of the same choice."""
        digest = hashlib.sha256(f"{type(self.task)}{self.examples}".encode())
        for array in (self.data.inputs[: self.examples], self.data.targets[: self.examples]):
            digest.update(np.ascontiguousarray(array).tobytes())
        for tensor in self.network.state_dict().values():
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return _LOSSES.setdefault(self.network, {}).setdefault(digest.hexdigest(), {})

    def _copy(self) -> nn.Module:
        return copy.deepcopy(self.network).eval().requires_grad_(False)

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        device = device_of(self.network)
        at_once = examples_at_once(self.task.input_shape, fewest=FEWEST, most=BATCH)
        for inputs, targets in even_parts(self.data, self.examples, at_once):
            yield prepared(self.task.preprocessing, to_tensor(inputs)).to(device), targets_tensor(targets).to(device)


def _open(quotas: Quotas, chosen: Sequence[str]) -> list[str]:
    """The blocks that may still go."""
    left = {run: quota - sum(path in chosen for path in run) for run, quota in quotas.items()}
    return [path for run in quotas if left[run] > 0 for path in run if path not in chosen]


@torch.no_grad()
def loss_without(
    network: nn.Module, paths: Collection[str], batches: Sequence[tuple[Tensor, Tensor]], task: Task
) -> float:
    """The task's mean loss without these blocks; BatchNorm goes by each batch's statistics, as others do not hold."""
    with swapped(network, emptied(network, paths)), batch_statistics(network):
        losses = [(task.loss(network(inputs).contiguous(), targets).item(), len(inputs)) for inputs, targets in batches]
    return sum(loss * count for loss, count in losses) / sum(count for _, count in losses)


def taylor(
    network: nn.Module, paths: Sequence[str], batches: Iterator[tuple[Tensor, Tensor]], task: Task
) -> dict[str, float]:
    """Mean absolute slope of an example's loss in a factor before what the block adds (Molchanov et al. 2017, for
    a whole block)."""
    gates: dict[str, Tensor] = {}
    sums = dict.fromkeys(paths, 0.0)

    def gated(path: str, entry: Tensor, exit_: Tensor) -> Tensor:
        gates[path] = entry.new_ones((len(entry), *(1,) * (entry.dim() - 1)), requires_grad=True)
        return entry + gates[path] * (exit_ - entry)

    examples = 0
    with with_gradients(network), _watching(network, paths, gated), torch.enable_grad():
        for inputs, targets in batches:
            summed = task.loss(network(inputs).contiguous(), targets) * len(inputs)
            slopes = torch.autograd.grad(summed, [gates[path] for path in paths])
            examples += len(inputs)
            for path, slope in zip(paths, slopes, strict=True):
                sums[path] += slope.abs().sum().item()
    return {path: total / examples for path, total in sums.items()}


@torch.no_grad()
def dissimilarity(
    network: nn.Module, paths: Sequence[str], batches: Iterator[tuple[Tensor, Tensor]]
) -> dict[str, float]:
    """One minus the mean cosine between an example's values before and after the block: 0 = it changes no direction
    (as in ShortGPT, Men et al. 2024)."""
    cosines: dict[str, list[Tensor]] = {path: [] for path in paths}

    def look(path: str, entry: Tensor, exit_: Tensor) -> None:
        cosines[path].append(torch.cosine_similarity(entry.flatten(1), exit_.flatten(1), dim=1))

    with _watching(network, paths, look):
        for inputs, _ in batches:
            network(inputs)
    return {path: 1.0 - torch.cat(found).mean().item() for path, found in cosines.items()}


@contextmanager
def _watching(
    network: nn.Module, paths: Sequence[str], look: Callable[[str, Tensor, Tensor], Tensor | None]
) -> Iterator[None]:
    """Call `look(path, what enters, what leaves)` at every run of a block; what it returns takes the place of what
    leaves."""

    entries: dict[str, Tensor] = {}

    def before(path: str) -> Callable[..., None]:
        def call(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            entry = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
            entries[path] = entry.clone()  # a block may add in place

        return call

    def after(path: str) -> Callable[..., Tensor | None]:
        return lambda _, args, exit_: look(path, entries.pop(path), exit_)

    modules = [(path, network.get_submodule(path)) for path in paths]
    handles = [module.register_forward_pre_hook(before(path), with_kwargs=True) for path, module in modules]
    handles += [module.register_forward_hook(after(path)) for path, module in modules]
    with hooked(handles):
        yield
