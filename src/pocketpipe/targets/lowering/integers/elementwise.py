"""What moves, pools and adds int8 tensors: TIR that goes along channels in vectors, shapes and constants built in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx
from tvm.tirx import Buffer, BufferLoad, BufferStore, PrimFunc, SeqStmt, Stmt

from pocketpipe.integer.graph import Add, MaxPool, SumPool
from pocketpipe.targets.lowering.integers.geometry import addition_parameters
from pocketpipe.targets.lowering.integers.preparing import over
from pocketpipe.targets.lowering.loops import Index, constant, loop, of, sequence, vector
from pocketpipe.targets.moving import Box

LOWEST = -128


def move(box: Box) -> PrimFunc:
    """Parameters: source and sink, each from the box's first element on."""
    source, out = _buffers("source", "out")
    *outer, last = zip(box.lengths, box.source_steps, box.sink_steps, strict=True)
    length, source_step, sink_step = last

    def along(start: Index, end: Index) -> Stmt:
        if source_step == sink_step == 1:
            return over(length, lambda place, lanes: BufferStore(
                out, BufferLoad(source, [vector(start + place, lanes)]), [vector(end + place, lanes)]
            ))  # fmt: skip
        return loop("i", length, lambda i: BufferStore(
            out, BufferLoad(source, [start + i * source_step]), [end + i * sink_step]
        ))  # fmt: skip

    def at(axis: int, start: Index, end: Index) -> Stmt:
        if axis == len(outer):
            return along(start, end)
        count, step, sink = outer[axis]
        return loop("i", count, lambda i: at(axis + 1, start + i * step, end + i * sink))

    return _function([source, out], at(0, 0, 0))


def fill(value: int, count: int) -> PrimFunc:
    """Parameter: what is filled with the same number."""
    (out,) = _buffers("out")
    return _function([out], over(count, lambda place, lanes: BufferStore(
        out, constant(value, lanes, "int8"), [vector(place, lanes)]
    )))  # fmt: skip


def addition(operator: Add, count: int) -> PrimFunc:
    """Parameters: two tensors of `count` elements each, their sum."""
    first, second, out = _buffers("first", "second", "out")
    own, other, rest, shift, zero_point, low, high = addition_parameters(operator, own=0)

    def at(place: Index, lanes: int) -> Stmt:
        left, right = (tirx.Cast(of("int32", lanes), BufferLoad(x, [vector(place, lanes)])) for x in (first, second))
        total = left * _int32(own, lanes) + right * _int32(other, lanes) + _int32(rest, lanes)
        rounded = (total >> _int32(shift, lanes)) + _int32(zero_point, lanes)
        clipped = tirx.Max(tirx.Min(rounded, _int32(high, lanes)), _int32(low, lanes))
        return BufferStore(out, tirx.Cast(of("int8", lanes), clipped), [vector(place, lanes)])

    return _function([first, second, out], over(count, at))


def sum_pool(operator: SumPool, shape: Sequence[int], made: Sequence[int]) -> PrimFunc:
    """Parameters: image of `shape` (height, width, channels), pooled image."""
    requantization = operator.requantization
    multiplier, shift = int(requantization.multiplier[0]), int(requantization.shift[0])

    def total(so_far: Any, value: Any, lanes: int) -> Any:
        return so_far + (tirx.Cast(of("int32", lanes), value) - _int32(operator.input_zero_point, lanes))

    def finished(sums: Any, lanes: int) -> Any:
        wide = of("int64", lanes)
        half = constant(1 << (shift - 1), lanes, "int64")
        product = tirx.Cast(wide, sums) * constant(multiplier, lanes, "int64") + half
        rounded = (product >> constant(shift, lanes, "int64")) + constant(requantization.zero_point, lanes, "int64")
        low, high = (constant(bound, lanes, "int64") for bound in (requantization.low, requantization.high))
        return tirx.Cast(of("int8", lanes), tirx.Max(tirx.Min(rounded, high), low))

    return _pool(operator, shape, made, "int32", 0, total, finished)


def max_pool(operator: MaxPool, shape: Sequence[int], made: Sequence[int]) -> PrimFunc:
    """Parameters: image of `shape` (height, width, channels), pooled image."""
    return _pool(
        operator, shape, made, "int8", LOWEST,
        lambda so_far, value, lanes: tirx.Max(so_far, value), lambda value, lanes: value,
    )  # fmt: skip


def _pool(
    operator: SumPool | MaxPool,
    shape: Sequence[int],
    made: Sequence[int],
    kind: str,
    first: int,
    combined: Any,
    finished: Any,
) -> PrimFunc:
    """Over windows: `combined(so far, value, lanes)` from `first`, of type `kind`; then `finished(result, lanes)`."""
    x, out = _buffers("x", "out")
    height, width, channels = shape
    (rows, columns), (down, right), (top, left) = operator.window, operator.strides, operator.pads[:2]

    def at(row: Index, column: Index, channel: Index, lanes: int) -> Stmt:
        so_far = tirx.decl_buffer((lanes,), kind, "so_far", scope="local")
        whole = [vector(0, lanes)]

        def tap(y: Index, x_: Index) -> Stmt:
            value = BufferLoad(x, [vector((y * width + x_) * channels + channel, lanes)])
            return BufferStore(so_far, combined(BufferLoad(so_far, whole), value, lanes), whole)

        place = (row * made[1] + column) * channels + channel
        return SeqStmt([
            tirx.AllocBuffer(so_far),
            BufferStore(so_far, constant(first, lanes, kind), whole),
            _within(row * down - top, rows, height, lambda y: _within(
                column * right - left, columns, width, lambda x_: tap(y, x_)
            )),
            BufferStore(out, finished(BufferLoad(so_far, whole), lanes), [vector(place, lanes)]),
        ])  # fmt: skip

    return _function([x, out], loop("row", made[0], lambda row: loop("column", made[1], lambda column: over(
        channels, lambda channel, lanes: at(row, column, channel, lanes)
    ))))  # fmt: skip


def _within(start: Index, count: int, length: int, body: Any) -> Stmt:
    """`body` at the positions from `start` on that lie inside an axis."""
    if isinstance(start, int) and start >= 0 and start + count <= length:
        return loop("i", count, lambda i: body(start + i))
    first = tirx.max(0, start)
    last = tirx.min(length, start + count)
    return loop("i", tirx.max(0, last - first), lambda i: body(first + i))


def _buffers(*names: str) -> list[Buffer]:
    return [tirx.decl_buffer((2**31 - 1,), "int8", name) for name in names]


def _function(buffers: Sequence[Buffer], body: Stmt) -> PrimFunc:
    return PrimFunc(list(buffers), sequence([body])).with_attr("tirx.noalias", True)


def _int32(value: int, lanes: int) -> Any:
    return constant(value, lanes, "int32")
