"""Golden vectors of C: examples where none are given, and the first one that lies in a delivery."""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np

from pocketpipe.delivery.folder import GOLDEN, INPUTS
from pocketpipe.delivery.metadata import DeliveryMetadata

MADE_UP = 8
"""Examples, where none are given."""


def made_up(shape: tuple[int, ...], kind: np.dtype) -> np.ndarray:
    """(N, *shape): every value of the integer type `kind` alike likely."""
    limits = np.iinfo(kind)
    return np.random.default_rng(0).integers(limits.min, limits.max, (MADE_UP, *shape), kind, endpoint=True)


def one_example(delivery: Path) -> np.ndarray:
    """The first golden input (1, bytes), as it lies in the file."""
    entering = np.fromfile(delivery / GOLDEN / INPUTS, np.uint8)
    return entering.reshape(-1, prod(DeliveryMetadata.read(delivery).input_shape))[:1]
