"""Codebook: the weights of a layer share few values. See `CodebookStep`."""

from pocketpipe.compression.codebook.step import CodebookStep

__all__ = ["CodebookStep"]
