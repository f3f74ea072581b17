"""Training data as whole tensors, cut into batches by a seeded permutation: no loader processes, no per-image work.

Measured with 45,000 images of 3x32x32 and a ResNet-20 on two cores, batch 128: 1.4 ms of data a step (pick, shift,
flip, normalize) beside 95 ms of bf16 training, 1.4 % of an epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pocketpipe.samples import prepared, to_tensor
from pocketpipe.task import Split, Task


@dataclass(frozen=True)
class Shard:
    """Which part of every batch this process trains: `rank` of `ranks`."""

    rank: int = 0
    ranks: int = 1

    def of(self, batch: Tensor) -> Tensor:
        """This process's rows."""
        return batch.tensor_split(self.ranks)[self.rank]


class Batches:
    """The batches of any epoch, a pure function of (seed, epoch).

    A last incomplete batch is left out (another permutation takes its examples in the next epoch): its few examples
    would count more than the others, and shards of several processes would differ in size.
    """

    def __init__(
        self, task: Task, split: Split, batch_size: int, seed: int, shard: Shard, device: torch.device
    ) -> None:
        usable = min(batch_size, len(split))
        self.batch_size = usable - usable % shard.ranks
        self.steps = len(split) // self.batch_size
        self._task = task
        self._seed = seed
        self._shard = shard
        self._inputs = to_tensor(split.inputs).to(device)
        self._targets = to_tensor(split.targets).to(device)

    def epoch(self, epoch: int) -> EpochBatches:
        """The batches of one epoch: an iterable with a length."""
        return EpochBatches(self, epoch)

    def cut(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(network inputs, targets) of this process, batch after batch."""
        device = self._inputs.device
        order = torch.from_numpy(np.random.default_rng((self._seed, epoch)).permutation(len(self._inputs))).to(device)
        generator = torch.Generator(device).manual_seed(epoch_seed(self._seed, epoch))
        for start in range(0, self.steps * self.batch_size, self.batch_size):
            chosen = order[start : start + self.batch_size]
            # The whole batch is augmented in every process, so that the views do not depend on their number.
            views = self._task.augment(self._inputs.index_select(0, chosen), generator)
            yield prepared(self._task.preprocessing, self._shard.of(views)), self._shard.of(self._targets[chosen])


@dataclass(frozen=True)
class EpochBatches:
    """One epoch's batches, in the form in which Lightning takes data."""

    batches: Batches
    number: int

    def __len__(self) -> int:
        return self.batches.steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.batches.cut(self.number)


def epoch_seed(seed: int, epoch: int, stream: int = 0) -> int:
    """A seed for PyTorch from (seed, epoch); `stream` tells apart what is drawn independently within an epoch."""
    return int(np.random.SeedSequence((seed, epoch, stream)).generate_state(1, np.uint64)[0] >> np.uint64(1))
