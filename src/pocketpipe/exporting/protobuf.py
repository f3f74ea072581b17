"""Where the numbers of an ONNX file lie: byte ranges, found by walking the protobuf wire format.

Nothing is parsed into objects and written again: a file with the ranges cut out, and the ranges put back, is the same
file to the byte, whoever wrote it and however.
"""

from __future__ import annotations

from dataclasses import dataclass

from pocketpipe.exporting.bits import Cursor, Damaged

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

_INSIDE: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 25: "Function"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
}
"""onnx.proto: by message, the fields that lead to tensors."""

_DIMS, _DATA_TYPE, _NAME, _DATA_LOCATION = 1, 2, 8, 14
_EXTERNAL = 1
_CONTENT = {4: 4.0, 9: None, 10: 8.0}
"""Fields of a TensorProto that hold its numbers as they lie in memory: float_data, raw_data, double_data."""
_ELEMENT_SIZES = {
    **dict.fromkeys((2, 3, 9, 17, 18, 19, 20), 1.0),  # uint8, int8, bool, float8 in four kinds
    **dict.fromkeys((4, 5, 10, 16), 2.0),  # uint16, int16, float16, bfloat16
    **dict.fromkeys((1, 6, 12), 4.0),  # float, int32, uint32
    **dict.fromkeys((7, 11, 13, 14), 8.0),  # int64, double, uint64, complex64
    **dict.fromkeys((21, 22, 23), 0.5),  # uint4, int4, float4
}


class WeightsElsewhere(Damaged):
    """Numbers of the file are in other files."""


DEEPEST = 64
"""Graphs within graphs; more is no ONNX file."""


@dataclass(frozen=True)
class Span:
    """Bytes `start` to `end` of a file: the numbers of one tensor."""

    start: int
    end: int
    name: str
    element_size: float
    """Bytes of one number; 0.5 = two numbers in a byte."""
    rows: int = 1
    """Length of the tensor's first axis."""

    def __len__(self) -> int:
        return self.end - self.start


def tensor_spans(onnx: bytes) -> list[Span]:
    """Where tensors' numbers lie in the file, ascending. Raises Damaged for what is not an ONNX file, or cut off.

    Raises WeightsElsewhere where numbers are not in it.
    """
    spans: list[Span] = []
    fields = _walk(Cursor(onnx), "Model", spans, DEEPEST)
    if 7 not in fields:
        raise Damaged("no graph in it")
    return spans


def _walk(cursor: Cursor, message: str, spans: list[Span], depth: int) -> set[int]:
    """Collect the spans within a message; returns the fields that it has."""
    if not depth:
        raise Damaged("graphs within graphs without end")
    fields: set[int] = set()
    data_type, name, rows, found = 0, "", 0, []
    while cursor.left:
        tag = cursor.varint()
        field, wire = tag >> 3, tag & 7
        fields.add(field)
        if wire == _VARINT:
            value = cursor.varint()
            if message == "Tensor" and field == _DATA_TYPE:
                data_type = value
            elif message == "Tensor" and field == _DIMS:
                rows = rows or value
            elif message == "Tensor" and (field, value) == (_DATA_LOCATION, _EXTERNAL):
                raise WeightsElsewhere("weights lie in other files beside it")
        elif wire in (_FIXED64, _FIXED32):
            cursor.skip(8 if wire == _FIXED64 else 4)
        elif wire == _BYTES:
            length = cursor.varint()
            start = cursor.position
            cursor.skip(length)
            if inner := _INSIDE.get(message, {}).get(field):
                _walk(Cursor(cursor.data, start, start + length), inner, spans, depth - 1)
            elif message == "Tensor" and field == _DIMS and length:  # packed
                rows = Cursor(cursor.data, start, start + length).varint()
            elif message == "Tensor" and field == _NAME:
                name = cursor.data[start : cursor.position].decode(errors="replace")
            elif message == "Tensor" and field in _CONTENT:
                found.append((start, cursor.position, _CONTENT[field]))
        else:
            raise Damaged(f"wire type {wire}")
    for start, end, size in found:
        spans.append(Span(start, end, name, size or _ELEMENT_SIZES.get(data_type, 1.0), rows or 1))
    return fields
