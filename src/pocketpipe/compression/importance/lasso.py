"""LASSO: the channels from which the layers that read them are best put together (He et al. 2017, section 3.1)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from pocketpipe.compression.members import ReadingModule, readers
from pocketpipe.compression.sampling import columns_of, input_rows, sampled, watched
from pocketpipe.compression.tracing import TracedGroup

ROWS = 4096
"""Sampled positions over all examples, for each layer that reads."""
PENALTIES, SMALLEST_PENALTY = 100, 1e-4
"""How many penalties are tried, from the one that silences all channels down to this share of it."""
NEGLIGIBLE = 1e-6
"""Coefficients below this are rounding: of two equal channels only one is used."""
SEED = 0


@torch.no_grad()
def by_lasso(network: nn.Module, groups: Sequence[TracedGroup], examples: Tensor) -> dict[str, Tensor]:
    """Score (channels,) of each group's channels by the largest penalty under which LASSO uses them.

    So any number of channels can be taken from one order; He et al. take those of one penalty, which may leave out a
    channel that was used under a larger one.
    `examples` (N, ...) are prepared inputs. A group that no convolution or linear layer reads is not in the answer.
    """
    moments = contributions(network, groups, examples)
    return {name: _persistence(moment) for name, moment in moments.items()}


@torch.no_grad()
def contributions(network: nn.Module, groups: Sequence[TracedGroup], examples: Tensor) -> dict[str, Tensor]:
    """For each group the second moments (channels, channels) of what its channels add to what reads them.

    With `m` of a group, |y - sum_c beta_c y_c|^2 is (1 - beta) @ m @ (1 - beta), summed over all layers that read,
    each relative to |y|^2; y_c is what channel c adds to the layer's output at a sampled position and y their sum.
    """
    reading = {group.name: readers(network, group) for group in groups}
    layers = {reader.layer for found in reading.values() for reader in found}
    moments: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(SEED)

    def add(layer: str, module: ReadingModule, inputs: Tensor, output: Tensor) -> None:
        rows = input_rows(module, inputs, sampled(module, output, ROWS, generator)).double()
        weight = module.weight.flatten(1).double()
        for name, found in reading.items():
            for reader in found:
                if reader.layer == layer:
                    columns = columns_of(module, reader)
                    moment = _moment(rows, weight, columns).cpu()
                    share = moment / moment.sum().clamp_min(1e-30)
                    moments[name] = moments.get(name, torch.zeros_like(share)) + share

    with watched(network, layers, add):
        network(examples)
    return moments


def _moment(rows: Tensor, weight: Tensor, columns: Tensor) -> Tensor:
    """Sums over rows and outputs of the products of two channels' contributions, which are not formed if they are many.

    `columns` (channels, each) are a channel's columns of `rows` and of `weight`.
    """
    channels, each = columns.shape
    if len(rows) * len(weight) < each * each * channels:  # a layer behind a flatten reads far more than it makes
        parts = torch.stack([(rows[:, one] @ weight[:, one].T).flatten() for one in columns])
        return parts @ parts.T
    own, ours = rows[:, columns.flatten()], weight[:, columns.flatten()]
    products = (own.T @ own) * (ours.T @ ours)
    return products.view(channels, each, channels, each).sum((1, 3))


def _persistence(moment: Tensor) -> Tensor:
    """How early each channel enters LASSO's path as the penalty falls; of those that enter together, its beta."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import lasso_path

    values, vectors = np.linalg.eigh(moment.numpy())
    root = np.sqrt(values.clip(0))[:, None] * vectors.T  # root.T @ root = moment
    largest = np.abs(root.T @ root.sum(1)).max() / len(root)  # the least penalty that silences all, in its units
    penalties = largest * np.geomspace(1, SMALLEST_PENALTY, PENALTIES) + 1e-30
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # an order is asked for, not the last digits
        _, betas, _ = lasso_path(root, root.sum(1), alphas=penalties)
    used = np.abs(betas) > NEGLIGIBLE
    entered = np.where(used.any(1), used.argmax(1), PENALTIES)
    at_entry = np.abs(betas)[np.arange(len(betas)), entered.clip(max=PENALTIES - 1)]
    return torch.from_numpy(PENALTIES - entered + at_entry / (1 + at_entry))
