"""Blocks: takes out whole residual blocks. See `BlocksStep`."""

from pocketpipe.compression.blocks.step import BlocksStep

__all__ = ["BlocksStep"]
