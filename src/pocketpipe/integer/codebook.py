"""Weights that share few values, as indices into tables: the same integers in fewer bytes.

Found from the integers themselves, so that it does not matter which method, or which tool, made them few.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pocketpipe.integer.graph import Convolution, IntegerGraph, Linear

INDEX_BITS = (1, 2, 4)
"""An index never lies across two bytes."""


@dataclass(frozen=True)
class Codebook:
    """`tables[channel or 0, index]` is the weight."""

    bits: int
    tables: np.ndarray
    """int8 (1 or output channels, at most 2^bits)."""
    indices: np.ndarray
    """uint8, packed in the order of the weights, the first one in the lowest bits."""

    @property
    def nbytes(self) -> int:
        """Of tables and indices."""
        return int(self.tables.nbytes + self.indices.nbytes)

    def weights(self, shape: tuple[int, ...]) -> np.ndarray:
        """The weights again, int8."""
        places = np.arange(np.prod(shape, dtype=np.int64)) * self.bits
        index = (self.indices[places >> 3] >> (places & 7)) & ((1 << self.bits) - 1)
        rows = index.reshape(shape[0], -1)
        channel = np.arange(shape[0])[:, None] % len(self.tables)
        found: np.ndarray = self.tables[channel, rows].reshape(shape)
        return found


def codebook_of(weight: np.ndarray) -> Codebook | None:
    """The smallest one of int8 weights (out, ...), a table for all or one for each channel; None if none is smaller
    than the weights.

    >>> codebook_of(np.array([[-7, 5, 5, 5, 5, -7]], np.int8))
    Codebook(bits=1, tables=array([[-7,  5]], dtype=int8), indices=array([30], dtype=uint8))
    """
    by_channel = weight.reshape(len(weight), -1)
    candidates = [
        made for rows in (weight.reshape(1, -1), by_channel) if (made := _with_tables(rows)) is not None
    ]  # fmt: skip
    smallest = min(candidates, key=lambda made: made.nbytes, default=None)
    return smallest if smallest is not None and smallest.nbytes < weight.nbytes else None


def codebooks_of(graph: IntegerGraph, overhead: int) -> dict[str, Codebook]:
    """For layers that take fewer bytes with one, by the tensor that they make.

    None at all where they do not save `overhead` bytes together: what a target spends on being able to read them.
    """
    found, saved = {}, 0
    for operator in graph.operators:
        if isinstance(operator, Convolution | Linear):
            codebook = codebook_of(operator.weight)
            if codebook is not None:
                found[operator.output] = codebook
                saved += operator.weight.nbytes - codebook.nbytes
    return found if saved > overhead else {}


def _with_tables(rows: np.ndarray) -> Codebook | None:
    """With a table for each row; None if one has too many values."""
    values = [np.unique(row) for row in rows]
    most = max(map(len, values))
    bits = next((bits for bits in INDEX_BITS if most <= 1 << bits), None)
    if bits is None:
        return None
    tables = np.stack([np.pad(row, (0, most - len(row))) for row in values])
    indices = np.concatenate([np.searchsorted(own, row) for own, row in zip(values, rows, strict=True)])
    return Codebook(bits, tables, _packed(indices.astype(np.uint8), bits))


def _packed(indices: np.ndarray, bits: int) -> np.ndarray:
    each = 8 // bits
    groups = np.pad(indices, (0, -len(indices) % each)).reshape(-1, each)
    packed: np.ndarray = (groups << (np.arange(each, dtype=np.uint8) * bits)).sum(1).astype(np.uint8)
    return packed
