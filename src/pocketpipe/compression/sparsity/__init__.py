"""Sparsity: single weights are zero, the layers keep their size. See `SparsityStep`."""

from pocketpipe.compression.sparsity.step import SparsityStep

__all__ = ["SparsityStep"]
