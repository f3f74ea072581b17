"""What follows blocks that were taken out: the layers that reconstruction refits."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from pocketpipe.compression.members import reading_module
from pocketpipe.compression.reconstruction import Statistics, reconstruct
from pocketpipe.compression.tracing import Trace

Runs = Sequence[Sequence[str]]


def reconstruct_shortened(
    network: nn.Module,
    before: nn.Module,
    trace: Trace,
    runs: Runs,
    removed: Sequence[str],
    examples: Tensor,
    *,
    statistics: Statistics,
) -> tuple[str, ...]:
    """`reconstruct` all layers of `network` that a removed block comes before.

    `network` is `before`, whose trace is `trace`, without the blocks `removed`; those of its `runs` that stay have
    moved up. What is no plain product (grouped, transposed, a bare parameter) stays as it is, too.
    """
    names = [layer.name for layer in trace.layers]
    gone = [position for position, name in enumerate(names) if _block_of(name, removed) is not None]
    after = names[min(gone, default=len(names)) :]
    places = {path: place for run in runs for path, place in _moved_up(run, removed).items()}
    layers = {}
    for name in after:
        if _block_of(name, removed) is None and reading_module(before, name) is not None:
            block = _block_of(name, list(places))
            layers[name if block is None else places[block] + name.removeprefix(block)] = name
    return reconstruct(network, before, layers, examples, statistics=statistics)


def _moved_up(run: Sequence[str], removed: Sequence[str]) -> dict[str, str]:
    """Where each block of a run that stays comes to stand (`taking_out.moved_up`)."""
    return dict(zip((path for path in run if path not in removed), run, strict=False))


def _block_of(layer: str, blocks: Sequence[str]) -> str | None:
    """The one of these blocks in which a layer lies."""
    return next((block for block in blocks if layer == block or layer.startswith(f"{block}.")), None)
