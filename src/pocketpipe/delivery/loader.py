"""Run a delivery from Python: NumPy and ctypes, no engine; for C sources a compiler of this machine.

>>> import pocketpipe
>>> outputs = pocketpipe.load("deliveries/x86_64")(images)  # doctest: +SKIP
"""

from pathlib import Path
from typing import Protocol

import numpy as np

from pocketpipe.delivery.compiling import CompiledSources, host_compiler
from pocketpipe.delivery.metadata import DeliveryMetadata
from pocketpipe.delivery.model import LIBRARY_FILE, Model
from pocketpipe.errors import UserError


class Delivered(Model):
    """A delivered library as its own `pocketpipe_model.py` calls it; mistakes are said as ours are."""

    def __init__(self, folder: Path, metadata: DeliveryMetadata) -> None:
        self.metadata = metadata
        super().__init__(folder)

    def __call__(self, examples: np.ndarray) -> np.ndarray:
        """Batch of stored examples (N, *input_shape) -> float32 outputs (N, *output_shape).

        Raises UserError if the examples have another shape, or are no bytes where bytes are stored.
        """
        examples = np.asarray(examples)
        self.metadata.check_examples(examples)
        try:
            return super().__call__(examples)
        except ValueError as error:
            raise UserError(str(error)) from error


class Loaded(Protocol):
    """A model in this process: stored examples (N, *input_shape) -> float32 outputs (N, *output_shape)."""

    metadata: DeliveryMetadata

    def __call__(self, examples: np.ndarray) -> np.ndarray:
        """Raises UserError if the examples have another shape."""


def load(folder: str | Path) -> Loaded:
    """The model in a delivery folder. Raises UserError if it is not complete, or made for another CPU, or delivered in
    C where there is no C compiler.
    """
    metadata = DeliveryMetadata.read(Path(folder))
    if metadata.integers is not None:
        return CompiledSources(Path(folder), metadata, host_compiler())
    return load_library(folder)


def load_library(folder: str | Path) -> Delivered:
    """The library in a delivery folder. Raises UserError if it is not complete or made for another CPU."""
    folder = Path(folder)
    metadata = DeliveryMetadata.read(folder)
    if not (folder / LIBRARY_FILE).is_file():
        raise UserError(f"{folder} is no complete delivery folder: it has no {LIBRARY_FILE}")
    try:
        return Delivered(folder, metadata)
    except RuntimeError as error:
        raise UserError(str(error)) from error
