"""The model in this folder, from Python: NumPy and the standard library, nothing else.

    from pocketpipe_model import Model

    outputs = Model()(examples)  # (N, ...) as stored: preprocessing is included

`python pocketpipe_model.py EXAMPLES.npy OUTPUTS.npy` does the same with files. From Python 3.8 on.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import platform
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

LIBRARY_FILE, METADATA_FILE = "model.so", "metadata.json"
INTEGER_KINDS = "bui"
"""NumPy's kinds of numbers without a fraction; what is true or false counts as 1 or 0."""
RUN_IN, RUN_BYTES_IN = "pocketpipe_run_in", "pocketpipe_run_bytes_in"


class Model:
    """A delivered library, ready to be called. May be called from several threads at once."""

    def __init__(self, folder: str | Path = Path(__file__).parent) -> None:
        """Raises RuntimeError if the library is for another machine, or damaged."""
        facts: dict[str, Any] = json.loads((Path(folder) / METADATA_FILE).read_text())
        if reason := unfit(facts["cpu"], facts["cpu_flags"]):
            raise RuntimeError(f"{folder} {reason}")
        self.labels: list[str] = facts["labels"]
        self.input_shape, self.output_shape = tuple(facts["input_shape"]), tuple(facts["output_shape"])
        self._preprocessing = facts["preprocessing"]
        library = _open_library(Path(folder) / LIBRARY_FILE)
        self._input_count, self._output_count, self._arena_bytes = (
            _size(library, f"pocketpipe_{what}") for what in ("input_count", "output_count", "arena_bytes")
        )
        self._run = _function(library, RUN_IN)
        self._run_stored = _function(library, RUN_BYTES_IN) if facts["input_dtype"] == "uint8" else None
        self._threads = threading.local()

    def __call__(self, examples: np.ndarray) -> np.ndarray:
        """Batch of stored examples (N, *input_shape) -> float32 outputs (N, *output_shape).

        Raises ValueError for examples of another shape, or that are no bytes where bytes are stored.
        """
        examples = np.asarray(examples)
        if examples.shape[1:] != self.input_shape:
            raise ValueError(f"examples have shape {examples.shape}, expected (N, {str(self.input_shape)[1:]}")
        outputs = np.empty((len(examples), self._output_count), np.float32)
        if self._run_stored is None:
            run, entering = self._run, self._prepared(examples)
        else:
            run, entering = self._run_stored, as_bytes(examples)
        entering = np.ascontiguousarray(entering)
        for place in range(len(examples)):
            run(self._arena(), _address(entering[place]), _address(outputs[place]))
        return outputs.reshape(len(examples), *self.output_shape)

    def run_prepared(self, example: np.ndarray) -> np.ndarray:
        """One example that is preprocessed already, float32 (1, *input_shape) -> (1, *output_shape).

        The shortest way in: what latency is measured on. Raises ValueError for another size.
        """
        example = np.ascontiguousarray(example, np.float32)
        if example.size != self._input_count:
            raise ValueError(f"example has {example.size} values, the model takes {self._input_count}")
        output = np.empty(self._output_count, np.float32)
        self._run(self._arena(), _address(example), _address(output))
        return output.reshape(1, *self.output_shape)

    def _prepared(self, stored: np.ndarray) -> np.ndarray:
        """`(x * scale - mean) / std` in float32; mean and std are one for all, or one for each index of axis 0."""
        shape = (-1,) + (1,) * (stored.ndim - 2)
        mean, std = (np.asarray(self._preprocessing[name], np.float32).reshape(shape) for name in ("mean", "std"))
        prepared: np.ndarray = (stored.astype(np.float32) * np.float32(self._preprocessing["scale"]) - mean) / std
        return prepared

    def _arena(self) -> int:
        """Address of this thread's working memory, aligned to 64 bytes."""
        memory: np.ndarray | None = getattr(self._threads, "memory", None)
        if memory is None:
            memory = self._threads.memory = np.zeros(self._arena_bytes + 64, np.uint8)
        return -(-_address(memory) // 64) * 64


def unfit(cpu: str, flags: Iterable[str]) -> str | None:
    """Why code for `cpu`, which needs these features, cannot run here; None if it can."""
    machine = cpu.partition(" ")[0]
    if machine != platform.machine():
        return f"holds code for {machine}, this machine is {platform.machine()}"
    if missing := missing_flags(flags):
        return f"was compiled for a CPU with {', '.join(missing)}, which this one lacks; compile it here again"
    return None


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


_OPEN: dict[str, ctypes.CDLL] = {}
"""By digest of their content."""


def _open_library(file: Path) -> ctypes.CDLL:
    """The library in `file` as it is now, from a copy in memory. Raises RuntimeError if it cannot be loaded.

    A file that is written over while it is loaded changes under the process, which then crashes. And the system's
    loader goes by name: of a file that was replaced it would give back the old one. Under the name of the copy's
    descriptor, which stays open as long as it is loaded, it cannot.
    """
    content = file.read_bytes()
    key = hashlib.sha256(content).hexdigest()
    if key not in _OPEN:
        descriptor = _nameless_file()
        with open(descriptor, "wb", closefd=False) as copy:
            copy.write(content)
        try:
            _OPEN[key] = ctypes.CDLL(f"/proc/self/fd/{descriptor}")
        except OSError as error:
            os.close(descriptor)
            raise RuntimeError(f"{file} cannot be loaded: damaged? Copy it again ({error})") from None
    return _OPEN[key]


def _nameless_file() -> int:
    """Its descriptor; in memory, where this Python can (those for very old Linux cannot)."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create(LIBRARY_FILE)
    descriptor, name = tempfile.mkstemp()
    os.unlink(name)
    return descriptor


def _size(library: ctypes.CDLL, name: str) -> int:
    getter = getattr(library, name)
    getter.restype = ctypes.c_size_t
    size: int = getter()
    return size


def _function(library: ctypes.CDLL, name: str) -> Callable[[int, int, int], None]:
    """Of memory, input, output."""
    function: Any = getattr(library, name)
    function.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    function.restype = None
    run: Callable[[int, int, int], None] = function
    return run


def as_bytes(stored: np.ndarray) -> np.ndarray:
    """The same numbers as uint8. Raises ValueError for what is no byte."""
    if stored.dtype.kind not in INTEGER_KINDS:
        raise ValueError(f"examples are {stored.dtype}, expected uint8 as stored: the model scales them itself")
    if stored.size and not 0 <= stored.min() <= stored.max() <= 255:
        raise ValueError(f"examples hold {stored.min()}..{stored.max()}; uint8 is stored: 0..255")
    return stored.astype(np.uint8, copy=False)


def _address(array: np.ndarray) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"usage: python {sys.argv[0]} EXAMPLES.npy OUTPUTS.npy")
    np.save(sys.argv[2], Model()(np.load(sys.argv[1])))
