"""Which layers of a network cannot have masks on their weight, and why."""

from __future__ import annotations

from pocketpipe.profile import Layer, NetworkProfile


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


def left_dense(profile: NetworkProfile) -> dict[str, str]:
    """The weights (not vectors) on which no mask can be laid, each with the reason."""
    reasons = {layer.name: why_dense(layer) for layer in profile.layers if len(layer.weight) > 1}
    return {name: reason for name, reason in reasons.items() if reason is not None}
