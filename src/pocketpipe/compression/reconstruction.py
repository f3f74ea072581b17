"""Least-squares reconstruction (He et al. 2017, section 3.1): what follows a cut learns to do with what is left."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from pocketpipe.compression.batchnorm import batch_statistics
from pocketpipe.compression.members import ReadingModule
from pocketpipe.compression.modules import evaluating
from pocketpipe.compression.quantization.folding import norms_after
from pocketpipe.compression.refitting import Wanted, fitted, refitting, wanted_outputs
from pocketpipe.compression.weights import is_shared, laid_on

Reconstruction = Literal["least_squares"]
Statistics = Literal["reestimated", "kept"]


@torch.no_grad()
def reconstruct(
    network: nn.Module,
    before: nn.Module,
    layers: Mapping[str, str],
    examples: Tensor,
    *,
    statistics: Statistics,
    left: Callable[[str, Tensor], Tensor] = lambda _, outputs: outputs,
) -> tuple[str, ...]:
    """Refit, in place, the weights of `layers`, plain products of `network`; returns the names of those that were.

    `layers`: by their names, what they are called in `before`, the network before the cut; `left` (layer, outputs there
    as rows): the channels that are left of them; `examples` (N, ...) are prepared inputs. One layer follows the other
    as they run: each sees what those before it, refitted already, make of the examples, and comes as near as it can to
    the outputs that it had in `before`. A layer that runs more than once, shares its weight or has masks on it stays as
    it is.
    BatchNorm acts with the statistics that it will have: those of the examples, if they are to be re-estimated.
    """
    free = {
        layer: was for layer, was in layers.items() if not laid_on(network, layer) and not is_shared(network, layer)
    }
    found = wanted_outputs(before, free.values(), examples)
    wanted = {
        layer: Wanted(found[was].positions, left(layer, found[was].outputs))
        for layer, was in free.items()
        if was in found
    }
    anew = batch_statistics(network) if statistics == "reestimated" else nullcontext()
    shifts = _normalized(before, tuple(examples.shape[1:])) if statistics == "reestimated" else frozenset()

    def refit(layer: str, module: ReadingModule, inputs: Tensor, outputs: Tensor) -> None:
        # A constant may be added to outputs that a BatchNorm with new statistics takes it from.
        shifted = layers[layer] in shifts or module.bias is not None
        weight, bias = fitted(inputs, outputs, module.weight.flatten(1), with_bias=shifted)
        module.weight.copy_(weight.view_as(module.weight))
        if module.bias is not None:
            module.bias.copy_(bias)

    with evaluating(network), anew, refitting(network, wanted, refit):
        network(examples)
    return tuple(wanted)


_NORMALIZED: WeakKeyDictionary[nn.Module, frozenset[str]] = WeakKeyDictionary()
"""Of networks that were asked about: all trials cut the same one."""


def _normalized(network: nn.Module, input_shape: tuple[int, ...]) -> frozenset[str]:
    """The layers whose output a BatchNorm reads, and nothing else."""
    if network not in _NORMALIZED:
        _NORMALIZED[network] = frozenset(norms_after(network, input_shape))
    return _NORMALIZED[network]
