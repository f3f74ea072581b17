"""Huffman codes (Huffman 1952): optimal code lengths, canonical codes, encoding and decoding in NumPy.

A canonical code is known by how many symbols have each length: symbols are numbered by (length, value), and codes
count up in that order. The code stream is cut into lanes of `LANE` symbols that start on whole bytes, so that all
lanes of a tensor can be decoded side by side; the bytes of each lane stand in front.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pocketpipe.exporting.bits import Cursor, Damaged, bits_for, pack_bits, unpack_bits, varint

LANE = 1024
"""Symbols a lane: its size costs about a byte, and decoding takes this many vectorized steps."""

LANES_AT_ONCE = 4096
"""Lanes held in memory at a time."""

LONGEST = 57
"""Bits of the longest code that a 64-bit window holds at any bit of a byte. A longer one needs more than
10^11 symbols: the rarest symbol of a code of length n is at most 1 in the n-th Fibonacci number."""


def code_lengths(counts: Sequence[int] | NDArray[np.integer]) -> NDArray[np.uint8]:
    """Length of the code of each symbol that occurs `counts` times, such that the total is the least possible.

    Two queues, each ascending (van Leeuwen 1976): leaves, and the sums made of them. At a tie leaves come first, which
    keeps the longest code as short as an optimal code allows. A lone symbol gets one bit.

    >>> code_lengths([45, 13, 12, 16, 9, 5]).tolist()  # Cormen et al., figure 16.3
    [1, 3, 3, 3, 4, 4]
    """
    symbols = len(counts)
    if symbols == 1:
        return np.ones(1, np.uint8)
    order = np.argsort(np.asarray(counts), kind="stable")
    weights = [int(counts[symbol]) for symbol in order]
    parents = [0] * (2 * symbols - 1)
    leaf, inner = 0, symbols
    for new in range(symbols, 2 * symbols - 1):
        total = 0
        for _ in range(2):
            if leaf < symbols and (inner == new or weights[leaf] <= weights[inner]):
                child, leaf = leaf, leaf + 1
            else:
                child, inner = inner, inner + 1
            parents[child] = new
            total += weights[child]
        weights.append(total)
    depths = [0] * (2 * symbols - 1)
    for node in range(2 * symbols - 3, -1, -1):
        depths[node] = depths[parents[node]] + 1
    lengths = np.empty(symbols, np.uint8)
    lengths[order] = depths[:symbols]
    return lengths


class Code:
    """A canonical code: `counts[i]` symbols have i + 1 bits. Raises Damaged if that is no complete prefix code."""

    def __init__(self, counts: Sequence[int]) -> None:
        self.counts = tuple(counts)
        unused = (1 << len(counts)) - sum(count << (len(counts) - 1 - i) for i, count in enumerate(counts))
        if not 1 <= len(counts) <= LONGEST or (unused and self.counts != (1,)):
            raise Damaged("no complete prefix code")

    @classmethod
    def of_lengths(cls, lengths: NDArray[np.uint8]) -> Code:
        """The canonical code with these lengths."""
        return cls(np.bincount(lengths)[1:].tolist())

    @cached_property
    def lengths(self) -> NDArray[np.uint64]:
        """Bits of each symbol's code, in canonical order."""
        return np.repeat(np.arange(1, len(self.counts) + 1, dtype=np.uint64), self.counts)

    @cached_property
    def left_aligned(self) -> NDArray[np.uint64]:
        """Each symbol's code at the upper end of 64 bits: ascending, which is what makes decoding a search."""
        steps = np.uint64(1) << (np.uint64(64) - self.lengths)
        codes: NDArray[np.uint64] = np.cumsum(steps, dtype=np.uint64) - steps
        return codes

    def bits(self, occurrences: NDArray[np.integer]) -> int:
        """Bits of a stream in which the symbols, in canonical order, occur so often."""
        return int((self.lengths.astype(np.int64) * occurrences).sum())

    def to_bytes(self) -> bytes:
        """How many symbols have each length."""
        return varint(len(self.counts)) + b"".join(varint(count) for count in self.counts)

    @classmethod
    def read(cls, cursor: Cursor) -> Code:
        """What `to_bytes` wrote."""
        return cls([cursor.varint() for _ in range(min(cursor.varint(), LONGEST + 1))])


def encode(symbols: NDArray[np.unsignedinteger], code: Code) -> bytes:
    """The symbols (N,), numbered in canonical order, as lane sizes and bits."""
    per_chunk = LANE * LANES_AT_ONCE // 4
    chunks = [_encoded_lanes(symbols[start : start + per_chunk], code) for start in range(0, len(symbols), per_chunk)]
    sizes = np.concatenate([np.empty(0, np.int64), *(sizes for sizes, _ in chunks)])
    return _lane_sizes(sizes) + b"".join(bits for _, bits in chunks)


def _lane_sizes(sizes: NDArray[np.int64]) -> bytes:
    least = int(sizes.min(initial=sizes[0] if len(sizes) else 0))
    width = bits_for(int(sizes.max(initial=least)) - least + 1)
    return varint(least) + varint(width) + pack_bits((sizes - least).astype(np.uint16), width)


def _encoded_lanes(symbols: NDArray[np.unsignedinteger], code: Code) -> tuple[NDArray[np.int64], bytes]:
    """(bytes of each lane, the lanes)."""
    lanes = -(-len(symbols) // LANE)
    lengths = np.zeros(lanes * LANE, np.int64)
    lengths[: len(symbols)] = code.lengths[symbols]
    ends = np.cumsum(lengths.reshape(lanes, LANE), axis=1)
    sizes = (ends[:, -1] + 7) // 8
    starts = 8 * (np.cumsum(sizes) - sizes)
    places = (starts[:, None] + ends).reshape(-1)[: len(symbols)] - lengths[: len(symbols)]
    bits = np.zeros(8 * int(sizes.sum()), np.uint8)
    codes, lengths = code.left_aligned[symbols], lengths[: len(symbols)]
    for position in range(len(code.counts)):
        bits[places + position] = (codes >> np.uint64(63 - position)).astype(np.uint8) & 1
        longer = lengths > position + 1
        if not longer.all():
            places, codes, lengths = places[longer], codes[longer], lengths[longer]
    return sizes, np.packbits(bits).tobytes()


def decode(data: bytes, count: int, code: Code) -> NDArray[np.uint16]:
    """The `count` symbols that `encode` wrote. Raises Damaged where lanes do not fit the data."""
    cursor = Cursor(data)
    least, width = cursor.varint(), cursor.varint()
    lanes = -(-count // LANE)
    sizes = unpack_bits(cursor.take(-(-lanes * width // 8)), lanes, width).astype(np.int64) + least
    if int(sizes.sum()) != cursor.left:
        raise Damaged(f"lanes of {int(sizes.sum())} bytes in {cursor.left}")
    parts = []
    for first in range(0, lanes, LANES_AT_ONCE):
        some = sizes[first : first + LANES_AT_ONCE]
        parts.append(_decoded_lanes(cursor.take(int(some.sum())), some, code, min(LANE, count - LANE * first)))
    return np.concatenate([np.empty(0, np.uint16), *parts])[:count]


def _decoded_lanes(data: bytes, sizes: NDArray[np.int64], code: Code, steps: int) -> NDArray[np.uint16]:
    """All symbols of these lanes, one after the other; a lane that is not full goes on with symbols of no meaning."""
    windows = _windows(data)
    places = 8 * (np.cumsum(sizes) - sizes)
    symbols = np.empty((steps, len(sizes)), np.uint16)
    lengths, last = code.lengths.astype(np.int64), 8 * len(data)
    for step in range(steps):
        window = windows[places >> 3] << (places & 7).astype(np.uint64)
        found = np.searchsorted(code.left_aligned, window, side="right") - 1
        symbols[step] = found
        places = np.minimum(places + lengths[found], last)
    return symbols.T.reshape(-1)


def _windows(data: bytes) -> NDArray[np.uint64]:
    """The 64 bits from each byte on (zeros behind the end), and one window more."""
    padded = np.frombuffer(data + bytes(8), np.uint8)
    windows = np.zeros(len(data) + 1, np.uint64)
    for offset in range(8):
        windows = windows << np.uint64(8) | padded[offset : offset + len(data) + 1]
    return windows
