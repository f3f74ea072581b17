"""What in a sparsity step does not fit a network."""

from __future__ import annotations

from collections.abc import Iterable

from pocketpipe.compression.sparsity.layers import why_dense
from pocketpipe.profile import NetworkProfile, matches


def misfits(profile: NetworkProfile, named: Iterable[str], pinned: tuple[str, ...]) -> list[str]:
    """A line for each layer `named` in densities, and each pattern of `pinned`, that does not fit (empty if all do)."""
    layers = {layer.name: layer for layer in profile.layers}
    candidates = profile.products()
    if not candidates:
        return ["sparsity: no layer of this network can have a mask (convolutions and matrix products can)"]
    lines = [
        f"sparsity.pinned: {pattern!r} matches no layer; layers: {', '.join(candidates)}"
        for pattern in profile.idle(pinned)
    ]
    for name in sorted(named):
        if profile.took_out(name):
            continue
        if name not in layers:
            lines.append(f"sparsity.densities.{name}: no such layer; layers: {', '.join(candidates)}")
        elif reason := why_dense(layers[name]):
            lines.append(f"sparsity.densities.{name}: cannot have a mask: {reason}")
        elif matches(name, pinned):
            lines.append(f"sparsity.densities.{name}: a pattern of sparsity.pinned says that it stays dense")
    if not lines and not profile.products(pinned):
        lines.append("sparsity.pinned: the patterns leave no layer to mask")
    return lines
