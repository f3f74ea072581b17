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
SEED = 0


class Target(NamedTuple):
    """Where a layer's outputs were sampled, (examples, each), and what they were, (examples * each, channels)."""

    positions: Tensor
    outputs: Tensor


Refit = Callable[[str, ReadingModule, Tensor, Tensor], None]
"""Called with (layer, module, inputs as rows, wanted outputs as rows) just before a layer runs: sets its weights."""


def targets(network: nn.Module, layers: Iterable[str], examples: Tensor) -> dict[str, Target]:
    """What each of `layers` that runs just once puts out for `examples` (N, ...), prepared."""
    generator = torch.Generator().manual_seed(SEED)
    seen: dict[str, list[Target]] = {layer: [] for layer in layers}

    def remember(layer: str, module: ReadingModule, inputs: Tensor, output: Tensor) -> None:
        positions = sampled(module, output, ROWS, generator)
        seen[layer].append(Target(positions, output_rows(module, output, positions)))

    with watched(network, seen, remember):
        network(examples)
    return {layer: runs[0] for layer, runs in seen.items() if len(runs) == 1}


@contextmanager
def refitting(network: nn.Module, wanted: Mapping[str, Target], refit: Refit) -> Iterator[None]:
    """While this lasts, each layer with a target is refitted to it just before it runs.

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


def fitted(inputs: Tensor, outputs: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """(weight (channels, inputs) by which `inputs` (rows, ...) come nearest to `outputs` (rows, channels), zeros).

    Ridge regression around the given weight: min |inputs @ W.T - outputs|^2 + r |W - weight|^2, r being `RIDGE` times
    the mean square of an input, summed over rows. So the error is never above that of the given weight. By the normal
    equations, in double precision.
    """
    x, start = inputs.double(), weight.double()
    ridge = RIDGE * x.square().sum(0).mean().clamp_min(1e-30)
    missing = outputs.double() - x @ start.T
    few = len(x) < x.shape[1]  # then the dual form is the smaller one: as many equations as rows
    gram = x @ x.T if few else x.T @ x
    gram.diagonal().add_(ridge)
    change = x.T @ torch.linalg.solve(gram, missing) if few else torch.linalg.solve(gram, x.T @ missing)
    return start + change.T, outputs.new_zeros(len(weight))


def fitted_with_bias(inputs: Tensor, outputs: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """As `fitted`, and the best bias (channels,)."""
    x, y = inputs.double(), outputs.double()
    better, _ = fitted(x - x.mean(0), y - y.mean(0), weight)
    return better, y.mean(0) - better @ x.mean(0)
