"""Run a delivery from Python: NumPy and ctypes, no engine; for C sources a compiler of this machine.

>>> import pocketpipe
>>> outputs = pocketpipe.load("deliveries/x86_64")(images)  # doctest: +SKIP
"""

import ctypes
import os
import platform
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

import numpy as np

from pocketpipe.delivery.compiling import CompiledSources, host_compiler
from pocketpipe.delivery.folder import RUN_BYTES
from pocketpipe.delivery.integers import BYTES, as_bytes
from pocketpipe.delivery.metadata import DeliveryMetadata
from pocketpipe.errors import UserError

LIBRARY_FILE = "model.so"


class Delivered:
    """A delivered model, ready to be called. May be called from several threads at once."""

    def __init__(self, folder: Path, metadata: DeliveryMetadata) -> None:
        self.metadata = metadata
        library = _open_library(folder / LIBRARY_FILE)
        for getter in ("pocketpipe_input_count", "pocketpipe_output_count", "pocketpipe_arena_bytes"):
            getattr(library, getter).restype = ctypes.c_size_t
        self._arena_bytes: int = library.pocketpipe_arena_bytes()
        self._input_count: int = library.pocketpipe_input_count()
        self._output_count: int = library.pocketpipe_output_count()
        self._run = _function(library, "pocketpipe_run_in")
        self._run_stored = _function(library, f"{RUN_BYTES}_in") if metadata.input_dtype == BYTES else None
        self._threads = threading.local()

    def __call__(self, examples: np.ndarray) -> np.ndarray:
        """Batch of stored examples (N, *input_shape) -> float32 outputs (N, *output_shape).

        Raises UserError if the examples have another shape.
        """
        self.metadata.check_examples(examples)
        outputs = np.empty((len(examples), self._output_count), np.float32)
        if self._run_stored is not None:
            run, entering = self._run_stored, as_bytes(examples)
        else:
            run, entering = self._run, self.metadata.preprocessing(examples)
        for example, output in zip(np.ascontiguousarray(entering), outputs, strict=True):
            run(self._arena(), _address(example), _address(output))
        return outputs.reshape(len(examples), *self.metadata.output_shape)

    def run_prepared(self, example: np.ndarray) -> np.ndarray:
        """One example that is preprocessed already, float32 (1, *input_shape) -> (1, *output_shape).

        The shortest way in: what latency is measured on. Raises ValueError for another size.
        """
        if example.size != self._input_count:
            raise ValueError(f"example has {example.size} values, the model takes {self._input_count}")
        example = np.ascontiguousarray(example, np.float32)
        output = np.empty((1, *self.metadata.output_shape), np.float32)
        self._run(self._arena(), _address(example), _address(output))
        return output

    def _arena(self) -> int:
        """Address of this thread's working memory, aligned to 64 bytes."""
        try:
            return self._threads.address  # type: ignore[no-any-return]
        except AttributeError:
            self._threads.memory = np.zeros(self._arena_bytes + 64, np.uint8)  # kept alive as long as the thread
            self._threads.address = -(-_address(self._threads.memory) // 64) * 64
            return self._threads.address  # type: ignore[no-any-return]


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
    machine = metadata.cpu.partition(" ")[0]
    if machine != platform.machine():
        raise UserError(f"{folder} holds code for {machine}, this machine is {platform.machine()}")
    missing = missing_flags(metadata.cpu_flags)
    if missing:
        raise UserError(
            f"{folder} was compiled for a CPU with {', '.join(missing)}, which this one lacks; compile it here again"
        )
    return Delivered(folder, metadata)


def cpu_flags() -> frozenset[str]:
    """Features of this machine's CPU as /proc/cpuinfo names them; empty where there is no such file."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    named = (line.partition(":")[2] for line in lines if line.startswith(("flags", "Features")))
    return frozenset(next(named, "").split())


def missing_flags(needed: Iterable[str]) -> list[str]:
    """Those of the features that this machine's CPU lacks."""
    return sorted(set(needed) - cpu_flags())


_OPEN: dict[tuple[int, int], ctypes.CDLL] = {}


def _open_library(file: Path) -> ctypes.CDLL:
    """The library in `file` as it is now.

    The system's loader goes by name: of a file that was replaced it would give back the old one, still in memory.
    Under the name of an open descriptor, which is never closed, it cannot.
    """
    descriptor = os.open(file, os.O_RDONLY)
    status = os.fstat(descriptor)
    key = (status.st_dev, status.st_ino)  # not used again for another file as long as this one is mapped
    if key in _OPEN:
        os.close(descriptor)
    else:
        _OPEN[key] = ctypes.CDLL(f"/proc/self/fd/{descriptor}")
    return _OPEN[key]


def _function(library: ctypes.CDLL, name: str) -> Callable[[int, int, int], None]:
    """Of memory, input, output."""
    function = getattr(library, name)
    function.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    function.restype = None
    return function  # type: ignore[no-any-return]


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]  # type: ignore[no-any-return]
