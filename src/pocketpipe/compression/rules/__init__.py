"""What each operator does to channels: one rule for a kind of operator."""

from pocketpipe.compression.rules import channelwise, elementwise, layers, products, recurrent, shapes
from pocketpipe.compression.rules.registry import rule_for

__all__ = ["channelwise", "elementwise", "layers", "products", "recurrent", "rule_for", "shapes"]
