"""What `pocketpipe pack` tells in the terminal: which tensor is stored how."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pocketpipe.exporting.packing import Packed, StoredTensor

SMALLEST_SHOWN = 1024
"""Bytes of an initializer from which it has a row of its own."""


def print_packed(made: Packed, onnx_bytes: int, *, console: Console | None = None) -> None:
    """A row for each larger initializer, one for the others, one for the graph, and the total."""
    console = console or Console()
    style = box.SIMPLE_HEAD if console.is_terminal else None
    table = Table(box=style, header_style="bold", padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("initializer", overflow="fold")
    for column in ("bytes", "packed", "ratio"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("stored as", overflow="fold")
    shown = [tensor for tensor in made.tensors if tensor.plain_bytes >= SMALLEST_SHOWN]
    for tensor in shown:
        _row(table, tensor.name, tensor.plain_bytes, tensor.stored_bytes, tensor.how)
    small = [tensor for tensor in made.tensors if tensor not in shown]
    if small:
        _row(table, f"{len(small)} smaller ones", _plain(small), _stored(small), "")
    graph = onnx_bytes - _plain(made.tensors)
    _row(table, "graph, names, shapes", graph, len(made.data) - _stored(made.tensors), "with the container's header")
    table.add_section()
    _row(table, "file", onnx_bytes, len(made.data), "")
    console.print(table)


def _row(table: Table, name: str, plain: int, stored: int, how: str) -> None:
    table.add_row(Text(name), f"{plain:,}", f"{stored:,}", f"{plain / stored:.2f}x" if stored else "", how)


def _plain(tensors: Sequence[StoredTensor]) -> int:
    return sum(tensor.plain_bytes for tensor in tensors)


def _stored(tensors: Sequence[StoredTensor]) -> int:
    return sum(tensor.stored_bytes for tensor in tensors)
