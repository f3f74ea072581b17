"""What an ELF file takes of flash and RAM: the sums that `size` prints, without needing one."""

from __future__ import annotations

import struct
from pathlib import Path

from pocketpipe.errors import UserError

_WRITE, _ALLOCATED, _WITHOUT_CONTENT = 1, 2, 8
"""Flags of a section, and the type of one that is only memory."""


def flash_and_ram(file: Path) -> tuple[int, int]:
    """(bytes that are burnt: code, constants and initial data; bytes of memory: data, zeros and stack) of a 32-bit,
    little-endian ELF file. Raises UserError for another file."""
    content = file.read_bytes()
    if content[:6] != b"\x7fELF\x01\x01":
        raise UserError(f"{file.name} is no 32-bit little-endian ELF file: what it takes is not known")
    (table,) = struct.unpack_from("<I", content, 32)
    size, count = struct.unpack_from("<HH", content, 46)
    flash = ram = 0
    for place in range(table, table + size * count, size):
        _, kind, flags, _, _, length = struct.unpack_from("<6I", content, place)
        if flags & _ALLOCATED:
            flash += length if kind != _WITHOUT_CONTENT else 0
            ram += length if flags & _WRITE or kind == _WITHOUT_CONTENT else 0
    return flash, ram
