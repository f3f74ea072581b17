"""What follows a cut of channels: the layers that reconstruction refits, and which of their outputs are left."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pocketpipe.compression.members import readers, reading_module
from pocketpipe.compression.reconstruction import Statistics, reconstruct
from pocketpipe.compression.slimming import Kept
from pocketpipe.compression.tracing import Trace
from pocketpipe.compression.tracing.labels import Place


def reconstruct_thinned(
    network: nn.Module, before: nn.Module, trace: Trace, kept: Kept, examples: Tensor, *, statistics: Statistics
) -> tuple[str, ...]:
    """`reconstruct` all layers of `network` that a cut comes before.

    `network` is `before` with just the channels `kept` of `trace`, the trace of `before`. What is no plain product
    (grouped, transposed, a bare parameter) stays as it is, too.
    """

    def left(layer: str, outputs: Tensor) -> Tensor:
        stays = kept_positions(trace, kept, (f"{layer}.weight", 0), outputs.shape[1])
        return outputs[:, stays.to(outputs.device)]

    layers = {layer: layer for layer in _after_a_cut(before, trace, kept)}
    return reconstruct(network, before, layers, examples, statistics=statistics, left=left)


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


def kept_positions(trace: Trace, kept: Kept, place: Place, length: int) -> Tensor:
    """Indices along one axis of a parameter that are left when just `kept` is, ascending."""
    stays = torch.ones(length, dtype=torch.bool)
    for group in trace.groups:
        if group.name in kept and place in group.places:
            dropped = torch.ones(group.channels, dtype=torch.bool)
            dropped[list(kept[group.name])] = False
            stays[group.places[place][dropped].flatten()] = False
    return stays.nonzero().flatten()
