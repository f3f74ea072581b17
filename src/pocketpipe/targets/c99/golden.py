"""Golden vectors: a few examples as the network takes them, and the reference's integers for them."""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np

from pocketpipe.delivery.metadata import DeliveryMetadata
from pocketpipe.integer import reference
from pocketpipe.integer.graph import IntegerGraph

FOLDER, INPUTS, OUTPUTS = "golden", "inputs.bin", "outputs.bin"
MADE_UP = 8
"""Examples, where none are given."""


def made_up(shape: tuple[int, ...], kind: np.dtype) -> np.ndarray:
    """(N, *shape): every value of the integer type `kind` alike likely."""
    limits = np.iinfo(kind)
    return np.random.default_rng(0).integers(limits.min, limits.max, (MADE_UP, *shape), kind, endpoint=True)


def one_example(delivery: Path) -> np.ndarray:
    """The first golden input (1, bytes), as it lies in the file."""
    entering = np.fromfile(delivery / FOLDER / INPUTS, np.uint8)
    return entering.reshape(-1, prod(DeliveryMetadata.read(delivery).input_shape))[:1]


def write_golden(delivery: Path, graph: IntegerGraph, entering: np.ndarray, integers: np.ndarray) -> None:
    """`entering` as the network takes them, (N, ...) uint8 or int8; `integers` (N, ...), int8, what they are inside."""
    (delivery / FOLDER).mkdir()
    (delivery / FOLDER / INPUTS).write_bytes(entering.tobytes())
    (delivery / FOLDER / OUTPUTS).write_bytes(reference.run(graph, integers).tobytes())
