"""The C sources of an integer graph behind the interface of every delivery: float numbers in and out."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from pocketpipe.integer.graph import IntegerGraph, IntegerTensor
from pocketpipe.targets.c99.emitting import Sources, sources

ENTRY, GRID = "native.c", "grid.h"


def write_native_sources(graph: IntegerGraph, folder: Path) -> Sources:
    """Write everything into `folder` that `native.c` needs to be compiled, but the delivery's own header."""
    made = sources(graph)
    for name, text in made.files.items():
        (folder / name).write_text(text)
    (folder / ENTRY).write_text((files("pocketpipe.targets.c99") / ENTRY).read_text())
    ends = (("INPUT", graph.tensors[graph.input]), ("OUTPUT", graph.tensors[graph.output]))
    (folder / GRID).write_text("".join(_grid(name, tensor) for name, tensor in ends))
    return made


def native_arena(graph: IntegerGraph, made: Sources) -> int:
    """Bytes of working memory: the network's own, its input and its output."""
    return made.arena + graph.tensors[graph.input].elements + graph.tensors[graph.output].elements


def _grid(name: str, tensor: IntegerTensor) -> str:
    values = {"SCALE": f"{tensor.scale!r}", "ZERO_POINT": tensor.zero_point, "LOW": tensor.low, "HIGH": tensor.high}
    return "".join(f"#define {name}_{key} ({value})\n" for key, value in values.items())
