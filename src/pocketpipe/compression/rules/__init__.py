"""What each operator does to channels: one rule for a kind of operator."""

from pocketpipe.compression.rules import channelwise, elementwise, layers, shapes
from pocketpipe.compression.rules.registry import rule_for

__all__ = ["channelwise", "elementwise", "layers", "rule_for", "shapes"]
