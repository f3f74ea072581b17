"""Golden vectors: a few examples as the network takes them, and the reference's integers for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pocketpipe.integer import reference
from pocketpipe.integer.graph import IntegerGraph

FOLDER, INPUTS, OUTPUTS = "golden", "inputs.bin", "outputs.bin"
MADE_UP = 8
"""Examples, where none are given."""


def made_up(shape: tuple[int, ...], kind: np.dtype) -> np.ndarray:
    """(N, *shape): every value of the integer type `kind` alike likely."""
    limits = np.iinfo(kind)
    return np.random.default_rng(0).integers(limits.min, limits.max, (MADE_UP, *shape), kind, endpoint=True)


def write_golden(delivery: Path, graph: IntegerGraph, entering: np.ndarray, integers: np.ndarray) -> None:
    """`entering` as the network takes them, (N, ...) uint8 or int8; `integers` (N, ...), int8, what they are inside."""
    (delivery / FOLDER).mkdir()
    (delivery / FOLDER / INPUTS).write_bytes(entering.tobytes())
    (delivery / FOLDER / OUTPUTS).write_bytes(reference.run(graph, integers).tobytes())
