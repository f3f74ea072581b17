"""Layers refitted, one after the other as they run, to what they put out in another network (He et al. 2017, 3.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pocketpipe.compression.members import ReadingModule
from pocketpipe.compression.modules import hooked, input_of
from pocketpipe.compression.sampling import input_rows, output_rows, sampled, watched

ROWS = 8192
"""Sampled positions over all examples, for each layer."""
RIDGE = 1e-3
"""Pull towards the weights that are there, relative to the mean square of an input."""
DUAL = 4
"""A layer with masks that reads so many times more inputs than there are rows is fitted by equations of rows: these are
set up for each channel anew, those of inputs once for all."""
SEED = 0


class Wanted(NamedTuple):
    """Where a layer's outputs were sampled, (examples, each), and what they were, (examples * each, channels)."""

    positions: Tensor
    outputs: Tensor


Refit = Callable[[str, ReadingModule, Tensor, Tensor], None]
"""Called with (layer, module, inputs as rows, wanted outputs as rows) just before a layer runs: sets its weights."""


def wanted_outputs(network: nn.Module, layers: Iterable[str], examples: Tensor) -> dict[str, Wanted]:
    """What each of `layers` that runs just once puts out for `examples` (N, ...), prepared."""
    generator = torch.Generator().manual_seed(SEED)
    seen: dict[str, list[Wanted]] = {layer: [] for layer in layers}

    def remember(layer: str, module: ReadingModule, inputs: Tensor, output: Tensor) -> None:
        positions = sampled(module, output, ROWS, generator)
        seen[layer].append(Wanted(positions, output_rows(module, output, positions)))

    with watched(network, seen, remember):
        network(examples)
    return {layer: runs[0] for layer, runs in seen.items() if len(runs) == 1}


@contextmanager
def refitting(network: nn.Module, wanted: Mapping[str, Wanted], refit: Refit) -> Iterator[None]:
    """While this lasts, each layer of `wanted` is refitted to its outputs there just before it runs.

    So each sees what those before it, refitted already, make of the examples.
    """

    def hook(layer: str) -> Callable[[nn.Module, tuple[Tensor, ...], dict[str, Tensor]], None]:
        positions, outputs = wanted[layer]

        def before_it_runs(module: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
            assert isinstance(module, ReadingModule)
            refit(layer, module, input_rows(module, input_of(inputs, named), positions), outputs)

        return before_it_runs

    handles = [
        network.get_submodule(layer).register_forward_pre_hook(hook(layer), with_kwargs=True) for layer in wanted
    ]
    with hooked(handles):
        yield


def fitted(
    inputs: Tensor, outputs: Tensor, weight: Tensor, *, with_bias: bool, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(weight (channels, inputs), bias) by which `inputs` (rows, inputs) come nearest to `outputs` (rows, channels).

    Ridge regression around the given weight: min |inputs @ W.T + b - outputs|^2 + r |W - weight|^2, r being `RIDGE`
    times the mean square of an input, summed over rows. So where the examples say nothing, a weight stays, and the
    error is never above that of the given weight. A bias is fitted freely; without one it is zero. Where `mask` is
    False the weight is zero. By the normal equations, in double precision.
    """
    x, y, start = inputs.double(), outputs.double(), weight.double()
    if mask is not None:
        start = start * mask
    x_mean, y_mean = (x.mean(0), y.mean(0)) if with_bias else (x.new_zeros(x.shape[1]), y.new_zeros(len(weight)))
    x, y = x - x_mean, y - y_mean
    ridge = RIDGE * x.square().sum(0).mean().clamp_min(1e-30)
    missing = y - x @ start.T  # solved for the change of the weight: the pull is towards zero change
    change = _change(x, missing, ridge) if mask is None else _change_within(mask, x, missing, ridge)
    better = start + change.T
    return better, y_mean - better @ x_mean


def _change(x: Tensor, missing: Tensor, ridge: Tensor) -> Tensor:
    """(inputs, channels)."""
    if len(x) < x.shape[1]:  # then the dual form is the smaller one: as many equations as rows
        return x.T @ _solved(x @ x.T, ridge, missing)
    return _solved(x.T @ x, ridge, x.T @ missing)


def _change_within(mask: Tensor, x: Tensor, missing: Tensor, ridge: Tensor) -> Tensor:
    """The same where `mask` (channels, inputs) leaves each channel inputs of its own: zero elsewhere."""
    change = x.new_zeros(x.shape[1], len(mask))
    if DUAL * len(x) < x.shape[1]:
        for channel, kept in enumerate(mask):
            within = x[:, kept]
            change[kept, channel] = (within.T @ _solved(within @ within.T, ridge, missing[:, [channel]])).squeeze(1)
        return change
    gram, wanted = x.T @ x, x.T @ missing
    for channel, kept in enumerate(mask):
        change[kept, channel] = _solved(gram[kept][:, kept], ridge, wanted[kept][:, [channel]]).squeeze(1)
    return change


def _solved(gram: Tensor, ridge: Tensor, wanted: Tensor) -> Tensor:
    """Of (gram + ridge) @ found = wanted. `gram` is changed."""
    gram.diagonal().add_(ridge)
    return torch.cholesky_solve(wanted, torch.linalg.cholesky(gram))
