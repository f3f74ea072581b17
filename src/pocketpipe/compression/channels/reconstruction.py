"""Least-squares reconstruction (He et al. 2017, section 3.1): what reads fewer channels learns to do with them."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from pocketpipe.compression.batchnorm import batch_statistics
from pocketpipe.compression.members import ReadingModule, readers, reading_module
from pocketpipe.compression.modules import evaluating
from pocketpipe.compression.quantization.folding import norms_after
from pocketpipe.compression.refitting import Wanted, fitted, refitting, wanted_outputs
from pocketpipe.compression.slimming import Kept
from pocketpipe.compression.tracing import Trace
from pocketpipe.compression.tracing.labels import Place
from pocketpipe.compression.weights import is_shared, laid_on

Statistics = Literal["reestimated", "kept"]


@torch.no_grad()
def reconstruct(
    network: nn.Module, before: nn.Module, trace: Trace, kept: Kept, examples: Tensor, *, statistics: Statistics
) -> tuple[str, ...]:
    """Refit, in place, the weights of all layers of `network` that a cut comes before; returns their names.

    `network` is `before` with just the channels `kept` of `trace`, the trace of `before`; `examples` (N, ...) are
    prepared inputs. One layer follows the other as they run: each sees what those before it, refitted already, make of
    the examples, and comes as near as it can to the outputs that it had in `before`. A layer that runs more
    than once, shares its weight, has masks on it, or is no plain product (grouped, transposed, a bare parameter), stays
    as it is.
    BatchNorm acts with the statistics that it will have: those of the examples, if they are to be re-estimated.
    """
    layers = [layer for layer in _after_a_cut(before, trace, kept) if _is_free(network, layer)]
    wanted = {
        layer: Wanted(whole.positions, whole.outputs[:, _kept_outputs(trace, kept, layer, whole)])
        for layer, whole in wanted_outputs(before, layers, examples).items()
    }
    anew = batch_statistics(network) if statistics == "reestimated" else nullcontext()
    shifts = _normalized(before, tuple(examples.shape[1:])) if statistics == "reestimated" else frozenset()

    def refit(layer: str, module: ReadingModule, inputs: Tensor, outputs: Tensor) -> None:
        # A constant may be added to outputs that a BatchNorm with new statistics takes it from.
        free = layer in shifts or module.bias is not None
        weight, bias = fitted(inputs, outputs, module.weight.flatten(1), with_bias=free)
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


def _is_free(network: nn.Module, layer: str) -> bool:
    return not laid_on(network, layer) and not is_shared(network, layer)


def _after_a_cut(before: nn.Module, trace: Trace, kept: Kept) -> list[str]:
    """The layers from the first one on that reads a thinned group, in graph order, as far as they are plain products.

    Those that read no thinned group see what the cut ones before them make, too. Where that is what it was (another
    branch), their fit is the weight that they have.
    """
    thinned = [group for group in trace.groups if len(kept.get(group.name, ())) not in (0, group.channels)]
    reading = {reader.layer for group in thinned for reader in readers(before, group)}
    names = [layer.name for layer in trace.layers]
    first = next((position for position, name in enumerate(names) if name in reading), len(names))
    return [name for name in names[first:] if reading_module(before, name) is not None]


def _kept_outputs(trace: Trace, kept: Kept, layer: str, whole: Wanted) -> Tensor:
    stays = kept_positions(trace, kept, (f"{layer}.weight", 0), whole.outputs.shape[1])
    return stays.to(whole.outputs.device)


def kept_positions(trace: Trace, kept: Kept, place: Place, length: int) -> Tensor:
    """Indices along one axis of a parameter that are left when just `kept` is, ascending."""
    stays = torch.ones(length, dtype=torch.bool)
    for group in trace.groups:
        if group.name in kept and place in group.places:
            dropped = torch.ones(group.channels, dtype=torch.bool)
            dropped[list(kept[group.name])] = False
            stays[group.places[place][dropped].flatten()] = False
    return stays.nonzero().flatten()
