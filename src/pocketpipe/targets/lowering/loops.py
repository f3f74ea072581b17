"""Loops and vectors in TIR, as short as they are said."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from tvm import tirx
from tvm.tirx import Broadcast, For, ForKind, Ramp, SeqStmt, Stmt

Index = Any
"""A Python int where it is known when the code is made, else a TIR expression."""


def loop(name: str, extent: Index, body: Callable[[Index], Stmt]) -> Stmt:
    """`body` at each index; no loop where there is but one."""
    if isinstance(extent, int) and extent == 1:
        return body(0)
    variable = tirx.Var(name, "int32")
    return For(variable, 0, extent, ForKind.SERIAL, body(variable))


def one_by_one(name: str, extent: int, body: Callable[[int], Stmt]) -> Stmt:
    """`body` at each index, each with code of its own; `name` as of `loop`."""
    return sequence(body(index) for index in range(extent))


def unrolled(name: str, extent: int, times: int, body: Callable[[Index], Stmt]) -> Stmt:
    """The same, `times` bodies at a time."""
    whole, left = divmod(extent, times)
    together = loop(name, whole, lambda index: sequence(body(index * times + i) for i in range(times)))
    return sequence([*([together] if whole else []), *(body(whole * times + i) for i in range(left))])


def in_chunks(name: str, extent: int, size: int, times: int, body: Callable[[Index, int], Stmt]) -> Stmt:
    """`body(first, count)` on chunks of `size`, then on what is left one by one; `times` bodies at a time."""
    whole, left = divmod(extent, size)

    def at(start: int, count: int, index: Index) -> Stmt:
        return body(start + index * count, count)

    parts = ((0, whole, size), (whole * size, left, 1))
    return sequence(unrolled(name, many, times, partial(at, start, count)) for start, many, count in parts if many)


def sequence(statements: Iterable[Stmt]) -> Stmt:
    """One after the other."""
    parts = list(statements) or [tirx.Evaluate(0)]
    return parts[0] if len(parts) == 1 else SeqStmt(parts)


def vector(start: Index, lanes: int) -> Any:
    """Index of `lanes` elements from `start`."""
    return Ramp(start, 1, lanes) if lanes > 1 else start


def spread(value: Any, lanes: int) -> Any:
    """The same value in every lane."""
    return Broadcast(value, lanes) if lanes > 1 else value


def constant(value: float, lanes: int, kind: str = "float32") -> Any:
    """A number in every lane."""
    return spread(tirx.const(value, kind), lanes)


def lanes_of(value: Any) -> int:
    """How many elements an expression has; 1 where it is no vector."""
    return int(str(value.ty.dtype).partition("x")[2] or 1)


def of(kind: str, lanes: int) -> str:
    """TVM's name of a vector of `lanes` elements.

    >>> of("int8", 4), of("int8", 1)
    ('int8x4', 'int8')
    """
    return f"{kind}x{lanes}" if lanes > 1 else kind
