"""All calibration data through a network at once, with something done at its layers on the way.

What is changed at one layer is seen by all that follow it in the same pass: layer by layer at the cost of one forward.
The price is memory: what is alive in the network is alive for all examples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import nullcontext
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from pocketpipe.compression.batchnorm import batch_statistics
from pocketpipe.compression.modules import device_of, evaluating, has_torchs_forward, hooked, input_of
from pocketpipe.compression.sampling import channels_last, patches
from pocketpipe.compression.weights import is_shared

AtLayer = Callable[[nn.Module, Tensor, Tensor], Tensor | None]
"""(module, its input, its output) -> what it is to put out instead, if anything."""
Layer = _ConvNd | nn.Linear


def is_layer(module: nn.Module | None) -> TypeGuard[Layer]:
    """Whether it is a convolution, a transposed one or a linear layer, and computes as torch's own does."""
    return isinstance(module, (_ConvNd, nn.Linear)) and has_torchs_forward(module)


def fitted_layers(network: nn.Module, wanted: Container[str]) -> list[str]:
    """Those of `wanted` whose outputs are products with a weight of their own, by path: no transposed convolutions."""
    return [
        path
        for path, module in network.named_modules()
        if path in wanted
        and is_layer(module)
        and not isinstance(module, _ConvTransposeNd)
        and not is_shared(network, path)
    ]


def sample(total: int, positions: int, seed: int) -> Tensor:
    """(min(total, positions),) ascending indices."""
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:positions].sort().values


def sampled_inputs(module: Layer, inputs: Tensor, output: Tensor, positions: int, seed: int) -> Tensor:
    """(positions, groups, inputs of a group): what the layer reads for a `sample` of all positions of its output."""
    each = channels_last(module, output).flatten(1, -2).shape[1]
    chosen = sample(len(output) * each, positions, seed).to(inputs.device)
    return patches(module, inputs, chosen // each, chosen % each)


def sampled_outputs(module: Layer, output: Tensor, positions: int, seed: int) -> Tensor:
    """(positions, channels) of the output, at the positions of `sampled_inputs`."""
    rows = channels_last(module, output).flatten(0, -2)
    return rows[sample(len(rows), positions, seed).to(rows.device)]


@torch.no_grad()
def pass_through(
    network: nn.Module, batches: Sequence[Tensor], at: Mapping[str, AtLayer], *, renormalized: bool = False
) -> None:
    """Run `network` in eval mode on all `batches` of prepared inputs (N, ...), with `at` called at these modules.

    `renormalized`: BatchNorm takes the statistics of these inputs, as it will once they are measured anew.
    Modes are as before afterwards. Raises ValueError without a batch.
    """
    if not batches:
        raise ValueError("calibration needs at least one batch")
    device = device_of(network)
    handles = [
        network.get_submodule(path).register_forward_hook(_hook(act), with_kwargs=True) for path, act in at.items()
    ]
    normalizing = batch_statistics(network) if renormalized else nullcontext()
    with hooked(handles), evaluating(network), normalizing:
        network(torch.cat([batch.to(device) for batch in batches]))


def _hook(act: AtLayer) -> Callable[[nn.Module, tuple[Tensor, ...], dict[str, Tensor], Tensor], Tensor | None]:
    return lambda module, inputs, named, output: act(module, input_of(inputs, named), output)


class Recorder:
    """What `of` makes of the outputs of modules that are called just once; a recurrent step has many outputs."""

    def __init__(self, of: Callable[[str, nn.Module, Tensor], Tensor]) -> None:
        self._of = of
        self._calls: Counter[str] = Counter()
        self._made: dict[str, Tensor] = {}

    def at(self, path: str) -> AtLayer:
        """Records the module at `path`."""

        def record(module: nn.Module, inputs: Tensor, output: Tensor) -> None:
            self._calls[path] += 1
            if self._calls[path] == 1:
                self._made[path] = self._of(path, module, output)

        return record

    @property
    def made(self) -> dict[str, Tensor]:
        """By path."""
        return {path: made for path, made in self._made.items() if self._calls[path] == 1}
