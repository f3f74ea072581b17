"""The packed container: an ONNX file without its redundancy, given back to the byte.

It is a safetensors file, readable by any safetensors library. `graph` holds the file without its large numbers, and
where they go; each larger initializer is a tensor of its own, named by its place and name; `rest` holds the others.
How numbers are stored is chosen tensor by tensor: see `encodings`. Nothing but the bytes of the ONNX file decides.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass

from pocketpipe.errors import UserError
from pocketpipe.exporting.bits import Cursor, Damaged, varint
from pocketpipe.exporting.encodings import Stored, decode, encode, squeeze, unsqueeze
from pocketpipe.exporting.protobuf import Span, tensor_spans

SUFFIX = ".packed.safetensors"
FORMAT = "pocketpipe packed onnx 1"
SMALLEST_CUT = 24
"""Bytes of numbers that stay in the graph: shapes and single values."""
SMALLEST_OWN = 4096
"""Stored bytes from which a tensor gets an entry of its own in the safetensors header (about 80 bytes)."""

_KEY = "pocketpipe"
_ABOUT = re.compile(r"(.*); sha256 ([0-9a-f]{64}); bytes ([0-9]{1,15})")
_GRAPH, _REST = "graph", "rest"


@dataclass(frozen=True)
class StoredTensor:
    """How one initializer lies in the container."""

    name: str
    plain_bytes: int
    stored_bytes: int
    how: str


@dataclass(frozen=True)
class Packed:
    """A packed file, and how its tensors are stored, in the order of the ONNX file."""

    data: bytes
    tensors: tuple[StoredTensor, ...]
    graph_bytes: int
    """Stored bytes of the graph without its weights."""

    @property
    def overhead(self) -> int:
        """Bytes beside the tensors' numbers: the graph, and the container's own."""
        return len(self.data) - sum(tensor.stored_bytes for tensor in self.tensors)


def pack(onnx: bytes) -> bytes:
    """The packed form of an ONNX file: `unpack` gives back the same bytes. The same file gives the same bytes.

    What is not an ONNX file is stored whole.
    """
    return packed(onnx).data


def packed(onnx: bytes) -> Packed:
    """`pack`, with what was stored how."""
    spans = _worth_cutting(onnx)
    stored = [encode(onnx[span.start : span.end], span.element_size, span.rows) for span in spans]
    graph = _graph(onnx, spans, stored)
    tensors = {_GRAPH: graph}
    for position, (span, form) in enumerate(zip(spans, stored, strict=True)):
        if _own(form):
            tensors[f"{position} {span.name}"] = form.data
    if rest := b"".join(form.data for form in stored if not _own(form)):
        tensors[_REST] = rest
    about = f"{FORMAT}; sha256 {hashlib.sha256(onnx).hexdigest()}; bytes {len(onnx)}"
    return Packed(
        data=_safetensors(tensors, about),
        tensors=tuple(
            StoredTensor(span.name, len(span), len(form.data), form.how)
            for span, form in zip(spans, stored, strict=True)
        ),
        graph_bytes=len(graph),
    )


def unpack(packed: bytes) -> bytes:
    """The ONNX file that was packed. Raises UserError if `packed` was made by something else, or is damaged."""
    tensors, digest, length = _opened(packed)
    try:
        onnx = _reassembled(tensors, length)
    except (Damaged, KeyError, IndexError, OverflowError, MemoryError, ValueError) as error:
        raise UserError(f"packed file is damaged ({error}); fetch or pack it again") from error
    if hashlib.sha256(onnx).hexdigest() != digest:
        raise UserError("packed file is damaged (what it holds has another SHA-256); fetch or pack it again")
    return onnx


def _worth_cutting(onnx: bytes) -> list[Span]:
    try:
        return [span for span in tensor_spans(onnx) if len(span) >= SMALLEST_CUT]
    except Damaged:
        return []


def _own(form: Stored) -> bool:
    return len(form.data) >= SMALLEST_OWN


def _graph(onnx: bytes, spans: list[Span], stored: list[Stored]) -> bytes:
    """Directory of what was cut out (bytes of graph before it, its length, its stored length), then the graph."""
    directory, rest, position = [varint(len(spans))], [], 0
    for span, form in zip(spans, stored, strict=True):
        directory += [varint(span.start - position), varint(len(span)), varint(len(form.data)), bytes([_own(form)])]
        rest.append(onnx[position : span.start])
        position = span.end
    plain = b"".join((*directory, *rest, onnx[position:]))
    return min(b"\1" + squeeze(plain), b"\0" + plain, key=len)


def _reassembled(tensors: dict[str, bytes], length: int) -> bytes:
    stored = tensors[_GRAPH]
    cursor = Cursor(unsqueeze(stored[1:]) if stored[0] else stored[1:])
    entries = [
        (cursor.varint(), cursor.varint(), cursor.varint(), cursor.take(1)[0])
        for _ in range(min(cursor.varint(), cursor.left))
    ]
    if cursor.left + sum(entry[1] for entry in entries) != length:
        raise Damaged("its parts do not add up to the file")
    own = {int(name.split(" ")[0]): data for name, data in tensors.items() if name not in (_GRAPH, _REST)}
    rest = Cursor(tensors.get(_REST, b""))
    parts = []
    for position, (before, content_length, stored_length, alone) in enumerate(entries):
        data = own[position] if alone else rest.take(stored_length)
        parts += [cursor.take(before), decode(data, content_length)]
    return b"".join((*parts, cursor.take(cursor.left)))


def _safetensors(tensors: dict[str, bytes], about: str) -> bytes:
    """A safetensors file of byte tensors. Written here because the library does not promise an order of its header."""
    header: dict[str, object] = {"__metadata__": {_KEY: about}}
    position = 0
    for name, data in tensors.items():
        header[name] = {"dtype": "U8", "shape": [len(data)], "data_offsets": [position, position + len(data)]}
        position += len(data)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(tensors.values())


def _opened(packed: bytes) -> tuple[dict[str, bytes], str, int]:
    """(byte tensors by name, SHA-256 and length of the ONNX file)."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays = load(packed)
        header = json.loads(packed[8 : 8 + int.from_bytes(packed[:8], "little")])
        known, digest, length = _ABOUT.fullmatch(header["__metadata__"][_KEY]).groups()  # type: ignore[union-attr]
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError("not a file that pocketpipe packed, or not the whole of it") from error
    if known != FORMAT:
        raise UserError(f"packed by another version: {known!r}, this one reads {FORMAT!r}")
    return {name: array.tobytes() for name, array in arrays.items()}, digest, int(length)
