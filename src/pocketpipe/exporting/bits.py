"""Bits, variable-length integers, and a cursor that reads them back and notices when a file ends too early."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CHUNK = 1 << 20
"""Symbols that are spread into single bits at a time (a multiple of 8, so that chunks end on a byte)."""

WIDEST = 16
"""Bits of the widest symbol."""


class Damaged(ValueError):
    """What is read is not what was written."""


def bits_for(distinct: int) -> int:
    """Bits that tell `distinct` symbols apart.

    >>> [bits_for(count) for count in (1, 2, 3, 16, 17)]
    [0, 1, 2, 4, 5]
    """
    return (distinct - 1).bit_length()


def pack_bits(symbols: NDArray[np.integer], width: int) -> bytes:
    """The symbols (N,), each in `width` bits, most significant bit first; the last byte is filled up with zeros."""
    shifts = np.arange(width - 1, -1, -1, dtype=np.uint16)
    starts = range(0, len(symbols) if width else 0, CHUNK)
    parts = (symbols[start : start + CHUNK].astype(np.uint16)[:, None] >> shifts & 1 for start in starts)
    return b"".join(np.packbits(part.astype(np.uint8)).tobytes() for part in parts)


def unpack_bits(data: bytes, count: int, width: int) -> NDArray[np.uint16]:
    """The `count` symbols that `pack_bits` wrote. Raises Damaged if `data` is too short or `width` impossible."""
    if width > WIDEST or len(data) * 8 < count * width:
        raise Damaged(f"{count} symbols of {width} bits do not fit {len(data)} bytes")
    symbols = np.zeros(count, np.uint16)
    for start in range(0, count if width else 0, CHUNK):
        length = min(CHUNK, count - start)
        first = start * width // 8
        part = np.frombuffer(data, np.uint8, -(-length * width // 8), first)
        bits = np.unpackbits(part, count=length * width).reshape(length, width)
        for column in range(width):
            symbols[start : start + length] = symbols[start : start + length] << 1 | bits[:, column]
    return symbols


def varint(value: int) -> bytes:
    """A non-negative integer, 7 bits a byte, as protobuf has it.

    >>> varint(300).hex()
    'ac02'
    """
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class Cursor:
    """Reads `data` from its front to `end`. Every method raises Damaged where the data ends too early."""

    def __init__(self, data: bytes, position: int = 0, end: int | None = None) -> None:
        self.data = data
        self.position = position
        self.end = len(data) if end is None else end

    @property
    def left(self) -> int:
        """Bytes that were not read yet."""
        return self.end - self.position

    def skip(self, count: int) -> None:
        """Go over `count` bytes."""
        if not 0 <= count <= self.left:
            raise Damaged(f"{count} bytes wanted, {self.left} left")
        self.position += count

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        self.skip(count)
        return self.data[self.position - count : self.position]

    def varint(self) -> int:
        """The next variable-length integer (at most 64 bits)."""
        value = 0
        for shift in range(0, 70, 7):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise Damaged("an integer of more than 64 bits")
