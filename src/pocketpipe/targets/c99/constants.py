"""The constants of a C source: arrays and structs by what they hold, each stored once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

NUMBERS_A_LINE = 24
C_TYPES = {"int8": "int8_t", "uint8": "uint8_t", "int32": "int32_t"}


@dataclass
class Constants:
    """Definitions in C, in the order in which they were first asked for."""

    definitions: list[str] = field(default_factory=list)
    size: int = 0
    """Bytes that they take."""
    names: dict[tuple[str, bytes], str] = field(default_factory=dict)

    def array(self, role: str, values: np.ndarray) -> str:
        """The name of an array; equal ones are stored once."""
        key = (values.dtype.name, np.ascontiguousarray(values).tobytes())
        return self._named(key, role, values.nbytes, lambda name: array_of(name, values))

    def struct(self, kind: str, numbers: Sequence[int]) -> str:
        """The name of a constant of type `pocketpipe_<kind>`: C's unnamed ones would take stack for each call."""
        values = np.array(numbers, np.int32)
        members = ", ".join(map(str, numbers))
        return self._named(
            (kind, values.tobytes()), kind, values.nbytes,
            lambda name: f"static const pocketpipe_{kind} {name} = {{{members}}};",
        )  # fmt: skip

    def _named(self, key: tuple[str, bytes], role: str, size: int, define: Callable[[str], str]) -> str:
        if key not in self.names:
            self.names[key] = f"{role}_{len(self.names)}"
            self.definitions.append(define(self.names[key]))
            self.size += size
        return self.names[key]


def array_of(name: str, values: np.ndarray) -> str:
    """The definition of a constant array."""
    numbers = [_literal(int(value)) for value in values.reshape(-1)]
    lines = [", ".join(numbers[i : i + NUMBERS_A_LINE]) for i in range(0, len(numbers), NUMBERS_A_LINE)]
    return f"static const {C_TYPES[values.dtype.name]} {name}[{len(numbers)}] = {{\n    " + ",\n    ".join(lines) + "};"


def _literal(value: int) -> str:
    """C has no negative literals: -2147483648 is an expression of a wider type."""
    return "(-2147483647 - 1)" if value == -(2**31) else str(value)
