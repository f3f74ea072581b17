"""Which layers of a network can have masks on their weight."""

from __future__ import annotations

from fnmatch import fnmatchcase

from pocketpipe.profile import Layer, NetworkProfile

Shapes = dict[str, tuple[int, ...]]


def why_dense(layer: Layer) -> str | None:
    """Why no mask can be laid on the layer; None if it can."""
    if len(layer.weight) < 2:
        return "a vector (bias, scale or statistic), or no weight at all"
    if layer.multiplies:
        return None
    return (
        f"its operator is {layer.operator!r}: masks lie on weights of convolutions and matrix products, "
        "not on embeddings and bare parameters"
    )


def maskable(profile: NetworkProfile, pinned: tuple[str, ...] = ()) -> Shapes:
    """Shape of the weight of each layer that can have a mask and matches no pattern of `pinned`, in graph order."""
    widths = profile.widths()
    return {
        layer.name: tuple(axis.size(widths) for axis in layer.weight)
        for layer in profile.layers
        if why_dense(layer) is None and not any(fnmatchcase(layer.name, pattern) for pattern in pinned)
    }


def left_dense(profile: NetworkProfile) -> dict[str, str]:
    """The weights (not vectors) on which no mask can be laid, each with the reason."""
    reasons = {layer.name: why_dense(layer) for layer in profile.layers if len(layer.weight) > 1}
    return {name: reason for name, reason in reasons.items() if reason is not None}
