"""How the elements of one tensor are stored: the smallest of several lossless ways.

First where the zeros are (Han 2016, section 2: relative index; or one bit an element), then what the others are:
plain, or a palette of the distinct values with indices that are bit-packed or Huffman-coded (Han 2016, section 4).
Elements are bit patterns: -0.0 and NaN are values like others, and only the pattern of zeros is "zero".
"""

from __future__ import annotations

import lzma
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pocketpipe.exporting import huffman
from pocketpipe.exporting.bits import Cursor, Damaged, bits_for, pack_bits, unpack_bits, varint

Elements = NDArray[np.unsignedinteger]
"""(N,) bit patterns of N elements."""

LARGEST_PALETTE = 1 << 16
"""Distinct values up to which a palette is tried."""
LARGEST_ROW_PALETTE = 256
"""Distinct values of a row up to which rows have palettes of their own."""
LARGEST_SQUEEZED = 1 << 10
"""Bytes up to which general compression is tried: for tables of shapes and indices. It takes a few percent off float
weights too, at a hundred times the time; they are left, so that a dense network has the size that was predicted."""
GAP_BITS = range(2, 9)
"""Sizes of the gaps between elements that are not zero."""
WORTHWHILE_ZEROS = 0.02
"""Share of zeros from which on they are taken out."""

_PLAIN, _SQUEEZED, _DENSE, _BITMASK, _GAPS = range(5)
_RAW, _PACKED, _CODED, _BY_ROW = range(4)
_FILTERS = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20, "preset": 6}]
_HALF_BYTES = 0
"""The element size that stands for two elements a byte (int4, uint4)."""


@dataclass(frozen=True)
class Stored:
    """Encoded bytes of a tensor and, for people, how."""

    data: bytes
    how: str


def squeeze(data: bytes) -> bytes:
    """General compression without a header (LZMA2): the same bytes from the same data."""
    return lzma.compress(data, lzma.FORMAT_RAW, filters=_FILTERS)


def unsqueeze(data: bytes) -> bytes:
    """What `squeeze` was given. Raises Damaged."""
    try:
        return lzma.decompress(data, lzma.FORMAT_RAW, filters=_FILTERS)
    except (lzma.LZMAError, EOFError) as error:
        raise Damaged(str(error)) from error


def encode(content: bytes, element_size: float, rows: int = 1) -> Stored:
    """The smallest form of a tensor's bytes; `element_size` in bytes: 0.5 (two elements a byte), 1, 2, 4 or 8.

    `rows` is the length of its first axis: each row (an output channel, in most weights) may have its own palette.
    """
    forms = [Stored(bytes([_PLAIN]) + content, "plain")]
    if len(content) <= LARGEST_SQUEEZED:
        forms.append(Stored(bytes([_SQUEEZED]) + squeeze(content), "squeezed"))
    elements = _elements(content, element_size)
    if elements is not None:
        rows = rows if rows and len(elements) % rows == 0 and len(elements) > rows else 1
        size = bytes([int(element_size)]) + varint(rows)
        values = _values(elements, _row_lengths(np.arange(len(elements)), rows, len(elements)))
        forms.append(Stored(bytes([_DENSE]) + size + values.data, values.how))
        if 1 - np.count_nonzero(elements) / max(len(elements), 1) > WORTHWHILE_ZEROS:
            forms += [Stored(form.data[:1] + size + form.data[1:], form.how) for form in _sparse(elements, rows)]
    return min(forms, key=lambda form: len(form.data))


def decode(data: bytes, length: int) -> bytes:
    """The `length` bytes that were encoded. Raises Damaged."""
    cursor = Cursor(data)
    form = cursor.take(1)[0]
    if form in (_PLAIN, _SQUEEZED):
        content = cursor.take(cursor.left)
        return unsqueeze(content) if form == _SQUEEZED else content
    size = cursor.take(1)[0]
    dtype = _dtype(size)
    count, rows = 2 * length if size == _HALF_BYTES else length // dtype.itemsize, cursor.varint()
    if not 1 <= rows <= max(count, 1):
        raise Damaged(f"{rows} rows of {count} elements")
    if form == _DENSE:
        return _content(_read_values(cursor, _row_lengths(np.arange(count), rows, count), dtype), size)
    places = _read_places(cursor, count, form)
    elements = np.zeros(count, dtype)
    elements[places] = _read_values(cursor, _row_lengths(places, rows, count), dtype)
    return _content(elements, size)


def _elements(content: bytes, element_size: float) -> Elements | None:
    if element_size < 1:
        both = np.frombuffer(content, np.uint8)
        return np.stack([both & 15, both >> 4], axis=1).reshape(-1)  # ONNX: the first element in the lower half
    if len(content) % int(element_size):
        return None
    return np.frombuffer(content, _dtype(int(element_size)))


def _content(elements: Elements, size: int) -> bytes:
    if size == _HALF_BYTES:
        return (elements[::2] | elements[1::2] << 4).astype(np.uint8).tobytes()
    return elements.tobytes()


def _row_lengths(places: NDArray[np.int64], rows: int, count: int) -> NDArray[np.int64]:
    """(rows,) how many of the places are in each row of a tensor of `count` elements."""
    ends = np.searchsorted(places, np.arange(1, rows + 1) * (count // rows))
    return np.diff(ends, prepend=0)


def _dtype(size: int) -> np.dtype[np.unsignedinteger]:
    if size not in (_HALF_BYTES, 1, 2, 4, 8):
        raise Damaged(f"elements of {size} bytes")
    return np.dtype(f"<u{size or 1}")


# Where the elements that are not zero are.


def _sparse(elements: Elements, rows: int) -> list[Stored]:
    """[a bit for each element, gaps], each followed by the elements that are not zero."""
    places = np.flatnonzero(elements)
    values = _values(elements[places], _row_lengths(places, rows, len(elements)))
    width = _best_gap_bits(places)
    symbols = _gap_symbols(places, width)
    gaps = _values(symbols, _one_row(len(symbols)))
    head = varint(width) + varint(len(symbols)) + varint(len(gaps.data))
    return [
        Stored(bytes([_BITMASK]) + np.packbits(elements != 0).tobytes() + values.data, f"bitmask + {values.how}"),
        Stored(bytes([_GAPS]) + head + gaps.data + values.data, f"gaps ({gaps.how}) + {values.how}"),
    ]


def _read_places(cursor: Cursor, count: int, form: int) -> NDArray[np.int64]:
    if form == _BITMASK:
        mask = np.frombuffer(cursor.take(-(-count // 8)), np.uint8)
        return np.flatnonzero(np.unpackbits(mask, count=count))
    if form != _GAPS:
        raise Damaged(f"form {form} is unknown")
    width, length = cursor.varint(), cursor.varint()
    if width not in GAP_BITS or length > count:
        raise Damaged(f"{length} gaps of {width} bits for {count} elements")
    gaps = _read_values(Cursor(cursor.take(cursor.varint())), _one_row(length), np.dtype("u1"))
    places = _places(gaps, width)
    if len(places) and places[-1] >= count:
        raise Damaged("gaps lead beyond the last element")
    return places


def _gap_symbols(places: NDArray[np.int64], width: int) -> NDArray[np.uint8]:
    """Zeros before each place; the largest symbol says "that many zeros, and no element yet"."""
    zeros = np.diff(places, prepend=-1) - 1
    filler = (1 << width) - 1
    ends = np.cumsum(zeros // filler + 1)
    symbols = np.full(ends[-1] if len(ends) else 0, filler, np.uint8)
    symbols[ends - 1] = zeros % filler
    return symbols


def _places(symbols: NDArray[np.unsignedinteger], width: int) -> NDArray[np.int64]:
    ends = np.flatnonzero(symbols != (1 << width) - 1)
    return np.cumsum(symbols, dtype=np.int64)[ends] + np.arange(len(ends))


def _best_gap_bits(places: NDArray[np.int64]) -> int:
    """The width whose symbols have the least entropy in total: close to what either way of storing them takes."""
    zeros = np.diff(places, prepend=-1) - 1

    def total_bits(width: int) -> float:
        filler = (1 << width) - 1
        counts = np.bincount(zeros % filler, minlength=filler + 1)
        counts[filler] = int((zeros // filler).sum())
        shares = counts[counts > 0] / counts.sum()
        return float(-(shares * np.log2(shares)).sum() * counts.sum())

    return min(GAP_BITS, key=total_bits) if len(places) else GAP_BITS[0]


# What the elements are.


def _one_row(count: int) -> NDArray[np.int64]:
    return np.array([count])


def _values(elements: Elements, row_lengths: NDArray[np.int64]) -> Stored:
    """Plain, or a palette with indices, or a palette for each row, whichever is smallest."""
    size = elements.dtype.itemsize
    forms = [Stored(bytes([_RAW]) + elements.tobytes(), "plain")]
    counted = _distinct(elements)
    if counted is not None:
        palette, indices, counts = counted
        head = varint(len(palette))
        width = bits_for(len(palette))
        if len(palette) * size + len(elements) * width / 8 < len(elements) * size:
            packed = bytes([_PACKED]) + head + palette.tobytes() + pack_bits(indices, width)
            forms.append(Stored(packed, f"palette of {len(palette)}, {width} bits"))
        if (coded := _coded(palette, indices, counts)) is not None:
            forms.append(coded)
    if (by_row := _by_row(elements, row_lengths)) is not None:
        forms.append(by_row)
    return min(forms, key=lambda form: len(form.data))


def _coded(palette: Elements, indices: NDArray[np.int64], counts: NDArray[np.int64]) -> Stored | None:
    """Palette in canonical order and Huffman-coded indices; None where that cannot be smaller than bit-packed."""
    if len(palette) < 2:
        return None
    lengths = huffman.code_lengths(counts)
    code = huffman.Code.of_lengths(lengths)
    order = np.argsort(lengths, kind="stable")
    bits = code.bits(counts[order])
    if bits >= len(indices) * min(bits_for(len(palette)), 8 * palette.itemsize):
        return None
    rank = np.empty(len(order), np.uint16)
    rank[order] = np.arange(len(order))
    data = code.to_bytes() + palette[order].tobytes() + huffman.encode(rank[indices], code)
    return Stored(bytes([_CODED]) + data, f"palette of {len(palette)}, Huffman {bits / len(indices):.2f} bits")


def _by_row(elements: Elements, row_lengths: NDArray[np.int64]) -> Stored | None:
    """A palette for each row, and indices into it; None where palettes would be too large, or one serves all."""
    longest = int(row_lengths.argmax())
    first = int(row_lengths[:longest].sum())
    length = int(row_lengths[longest])
    values = len(np.unique(elements[first : first + length]))
    if (
        len(row_lengths) < 2
        or values * elements.itemsize + length * bits_for(values) // 8 >= length * elements.itemsize
    ):
        return None
    rows = np.repeat(np.arange(len(row_lengths)), row_lengths)
    order = np.lexsort((elements, rows))
    ordered, rows = elements[order], rows[order]
    new = np.ones(len(ordered), bool)
    new[1:] = (ordered[1:] != ordered[:-1]) | (rows[1:] != rows[:-1])
    sizes = np.bincount(rows[new], minlength=len(row_lengths))
    if sizes.max() > LARGEST_ROW_PALETTE:
        return None
    indices = np.empty(len(elements), np.uint8)
    indices[order] = np.cumsum(new) - 1 - np.repeat(np.cumsum(sizes) - sizes, row_lengths)
    head = _values(sizes.astype(np.uint16), _one_row(len(sizes)))
    coded = _values(indices, _one_row(len(indices)))
    data = varint(len(head.data)) + head.data + ordered[new].tobytes() + coded.data
    how = f"{len(sizes)} palettes of up to {sizes.max()}, {coded.how.rpartition(', ')[2]}"
    return Stored(bytes([_BY_ROW]) + data, how)


def _read_by_row(cursor: Cursor, row_lengths: NDArray[np.int64], dtype: np.dtype[np.unsignedinteger]) -> Elements:
    head = Cursor(cursor.take(cursor.varint()))
    sizes = _read_values(head, _one_row(len(row_lengths)), np.dtype("<u2")).astype(np.int64)
    palettes = _read_palette(cursor, int(sizes.sum()), dtype)
    indices = _read_values(cursor, _one_row(int(row_lengths.sum())), np.dtype("u1"))
    if (indices >= np.repeat(sizes, row_lengths)).any():
        raise Damaged("an index beyond the palette")
    return palettes[np.repeat(np.cumsum(sizes) - sizes, row_lengths) + indices]


def _read_values(cursor: Cursor, row_lengths: NDArray[np.int64], dtype: np.dtype[np.unsignedinteger]) -> Elements:
    """As many elements as there are in the rows, from all that is left in the cursor."""
    form, count = cursor.take(1)[0], int(row_lengths.sum())
    if form == _BY_ROW:
        return _read_by_row(cursor, row_lengths, dtype)
    if form == _RAW:
        return np.frombuffer(cursor.take(count * dtype.itemsize), dtype)
    if form == _PACKED:
        palette = _read_palette(cursor, cursor.varint(), dtype)
        indices = unpack_bits(cursor.take(cursor.left), count, bits_for(len(palette)))
    elif form == _CODED:
        code = huffman.Code.read(cursor)
        palette = _read_palette(cursor, sum(code.counts), dtype)
        indices = huffman.decode(cursor.take(cursor.left), count, code)
    else:
        raise Damaged(f"form {form} is unknown")
    if count and int(indices.max()) >= len(palette):
        raise Damaged("an index beyond the palette")
    return palette[indices]


def _read_palette(cursor: Cursor, size: int, dtype: np.dtype[np.unsignedinteger]) -> Elements:
    return np.frombuffer(cursor.take(size * dtype.itemsize), dtype)


def _distinct(elements: Elements) -> tuple[Elements, NDArray[np.int64], NDArray[np.int64]] | None:
    """(distinct values ascending, index of each element, occurrences); None if a palette would be too large."""
    if not len(elements) or len(np.unique(elements[: 2 * LARGEST_PALETTE])) > min(LARGEST_PALETTE, len(elements) // 2):
        return None
    palette = np.unique(elements)
    if len(palette) > LARGEST_PALETTE:
        return None
    indices = np.searchsorted(palette, elements)
    return palette, indices, np.bincount(indices, minlength=len(palette))
