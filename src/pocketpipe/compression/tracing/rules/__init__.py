"""What each operator does to channels: one rule for a kind of operator."""

from pocketpipe.compression.tracing.rules import channelwise, elementwise, layers, products, recurrent, shapes
from pocketpipe.compression.tracing.rules.registry import rule_for

__all__ = ["channelwise", "elementwise", "layers", "products", "recurrent", "rule_for", "shapes"]
