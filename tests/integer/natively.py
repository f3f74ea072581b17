"""Many integer graphs in one shared library of C, to be run here: one call of the compiler, no process for each."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from pocketpipe.integer.graph import IntegerGraph
from pocketpipe.targets.c99.sources import MODEL, sources
from pocketpipe.targets.toolchain import find_toolchain

Run = Callable[[np.ndarray], np.ndarray]
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic")
LIBRARY = "networks.so"


def natively(graphs: Sequence[IntegerGraph], folder: Path, *options: str) -> list[Run]:
    """For each graph a function of int8 inputs (N, ...) to its outputs (N, ...) as compiled C gives them."""
    arenas = []
    for number, graph in enumerate(graphs):
        made = sources(graph)
        arenas.append(made.arena)
        (folder / str(number)).mkdir()
        for name, text in made.files.items():
            (folder / str(number) / name).write_text(text)
        (folder / f"{number}.c").write_text(_UNIT.format(number=number, model=MODEL))
    units = [f"{number}.c" for number in range(len(graphs))]
    subprocess.run(
        [*host_compiler(), *STRICT, *(options or ("-O1",)), "-fPIC", "-shared", *units, "-o", LIBRARY],
        cwd=folder, check=True,
    )  # fmt: skip
    library = ctypes.CDLL(str(folder / LIBRARY))
    return [
        _runner(getattr(library, f"network_{number}"), arena, graph)
        for number, (graph, arena) in enumerate(zip(graphs, arenas, strict=True))
    ]


def host_compiler() -> tuple[str, ...]:
    """The command of this machine's C compiler; ziglang, which starts slower, where there is none."""
    return ("cc",) if shutil.which("cc") else find_toolchain("x86_64").shared[:2]


def _runner(function: Callable[..., None], arena: int, graph: IntegerGraph) -> Run:
    memory = np.zeros(arena, np.int8)
    shape = graph.tensors[graph.output].shape

    def run(inputs: np.ndarray) -> np.ndarray:
        found = np.zeros((len(inputs), *shape), np.int8)
        for example, output in zip(np.ascontiguousarray(inputs), found, strict=True):
            memory[:] = 85  # what lies there by chance must not matter
            function(*(array.ctypes.data_as(ctypes.c_void_p) for array in (memory, example, output)))
        return found

    return run


_UNIT = """\
#define POCKETPIPE_NO_STATIC_MEMORY
#define pocketpipe_run_in network_{number}
#include "{number}/{model}"
"""
