"""BatchNorm's statistics, measured anew: after channels are gone those of the large network no longer hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pocketpipe.compression.modules import device_of, evaluating, hooked
from pocketpipe.errors import UserError
from pocketpipe.samples import even_parts, examples_at_once, training_view

if TYPE_CHECKING:
    from pocketpipe.task import Split, Task

EXAMPLES = 2048
"""Training examples from which statistics are re-estimated after a cut."""

FEWEST, BATCH = 32, 256
"""Examples at once: at most `BATCH`, and `FEWEST` however large one is, as a batch's variance is taken."""
VIEW_SEED = 0


@contextmanager
def batch_statistics(network: nn.Module) -> Iterator[None]:
    """While this lasts, BatchNorm takes the statistics of each batch, as if just re-estimated on it; none is kept."""
    kept = [(norm, norm.training, norm.momentum) for norm in _norms(network)]
    counts = [None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone() for norm, _, _ in kept]
    try:
        for norm, _, _ in kept:
            norm.train()
            norm.momentum = 0.0
        with _several_values():
            yield
    finally:
        for (norm, training, momentum), count in zip(kept, counts, strict=True):
            norm.train(training)
            norm.momentum = momentum
            if norm.num_batches_tracked is not None and count is not None:
                norm.num_batches_tracked.copy_(count)


def reestimate_on(network: nn.Module, task: Task, data: Split | None) -> None:
    """`reestimate` on one augmented view each of the first `EXAMPLES` of `data`.

    Augmented, because that is what the weights were trained on: plain examples have other statistics (a whole ResNet-20
    for CIFAR-10 lost 2.6 points of accuracy by them, and none by augmented ones). Raises UserError if there are none.
    """
    if not _norms(network):
        return
    if data is None or not len(data):
        raise UserError("BatchNorm's statistics need calibration examples, and there are none; give a split with some")
    generator = torch.Generator().manual_seed(VIEW_SEED)
    at_once = examples_at_once(task.input_shape, fewest=FEWEST, most=BATCH)
    parts = even_parts(data, EXAMPLES, at_once)
    reestimate(network, (training_view(task, shown, wanted, generator) for shown, wanted in parts))


def reestimate(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace the running statistics of `network` by their average over `batches` of prepared inputs (N, ...).

    Each batch counts the same. Modes and momenta are as before afterwards. Does nothing without BatchNorm;
    raises ValueError if there is no batch.
    """
    norms = _norms(network)
    if not norms:
        return
    device = device_of(network)
    momenta = [norm.momentum for norm in norms]
    seen = 0
    try:
        with evaluating(network), torch.no_grad(), _averaging(norms), _several_values():
            for norm in norms:
                norm.reset_running_stats()
                norm.train()
            for batch in batches:
                network(batch.to(device))
                seen += 1
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    if not seen:
        raise ValueError("reestimate needs at least one batch: the statistics are reset")


@contextmanager
def _averaging(norms: Iterable[_BatchNorm]) -> Iterator[None]:
    """Each call counts the same. By its momentum, not by None, which only torch's own forward understands."""
    calls: Counter[int] = Counter()

    def count(norm: nn.Module, _: object) -> None:
        assert isinstance(norm, _BatchNorm)
        calls[id(norm)] += 1
        norm.momentum = 1.0 / calls[id(norm)]

    with hooked(norm.register_forward_pre_hook(count) for norm in norms):
        yield


@contextmanager
def _several_values() -> Iterator[None]:
    """Say in our words that BatchNorm has one value a channel, whose variance says nothing."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UserError(
            "BatchNorm's statistics need at least two calibration examples; give a split with more"
        ) from None


def _norms(network: nn.Module) -> list[_BatchNorm]:
    return [module for module in network.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
