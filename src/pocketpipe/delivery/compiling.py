"""Run delivered C sources from Python: compiled by a compiler of this machine, once for each that is loaded."""

import ctypes
import importlib.util
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pocketpipe.delivery.metadata import DeliveryMetadata
from pocketpipe.errors import UserError

SOURCE = "model.c"
COMPILERS = ("cc", "gcc", "clang")
OPTIONS = ("-std=c99", "-O3")


class CompiledSources:
    """A delivery in C as a function of this process. May be called from several threads at once."""

    def __init__(self, folder: Path, metadata: DeliveryMetadata, compiler: Sequence[str]) -> None:
        """`compiler`: a command line up to what makes a shared library of C files. Raises UserError if it fails."""
        assert metadata.footprint is not None, "a delivery says how much memory it needs"
        assert metadata.integers is not None, "a delivery in C says what its integers stand for"
        self.metadata = metadata
        self._ends = metadata.integers
        self._arena_bytes = metadata.footprint.arena
        self._threads = threading.local()
        self._outputs = int(np.prod(metadata.output_shape, dtype=np.int64))
        self._run = _compiled(folder, compiler).pocketpipe_run_in
        self._run.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
        self._run.restype = None

    def __call__(self, examples: np.ndarray) -> np.ndarray:
        """Batch of stored examples (N, *input_shape) -> float32 outputs (N, *output_shape)."""
        examples = np.asarray(examples)
        self.metadata.check_examples(examples)
        outputs = self.integers(self._ends.entering(examples, self.metadata.preprocessing))
        return self._ends.leaving(outputs.reshape(len(examples), *self.metadata.output_shape))

    def integers(self, entering: np.ndarray) -> np.ndarray:
        """int8 (N, outputs) for examples (N, ...) as the sources take them: uint8 or int8."""
        entering = np.ascontiguousarray(entering)
        outputs = np.empty((len(entering), self._outputs), np.int8)
        arena = self._arena()
        for example, output in zip(entering, outputs, strict=True):
            self._run(arena.ctypes.data, example.ctypes.data, output.ctypes.data)
        return outputs

    def _arena(self) -> np.ndarray:
        """This thread's working memory."""
        if not hasattr(self._threads, "arena"):
            self._threads.arena = np.zeros(self._arena_bytes, np.int8)
        arena: np.ndarray = self._threads.arena
        return arena


def host_compiler() -> tuple[str, ...]:
    """Command line of a C compiler of this machine. Raises UserError if there is none."""
    for name in COMPILERS:
        if shutil.which(name):
            return (name, *OPTIONS)
    zig = zig_cc()
    if zig is not None:
        return (*zig, *OPTIONS)
    raise UserError("a delivery in C needs a C compiler to be executed: install gcc, or `pip install ziglang`")


def zig_cc() -> tuple[str, str] | None:
    """Command line of the C compiler in the Python package ziglang, if that is installed."""
    package = importlib.util.find_spec("ziglang")
    if package is None or package.origin is None:
        return None
    return str(Path(package.origin).with_name("zig")), "cc"


def complaint(said: str) -> str:
    """What is wrong, of all that a compiler said: its first line with an error, or the end."""
    return next((line for line in said.splitlines() if "error" in line), said.strip()[-200:])


def _compiled(folder: Path, compiler: Sequence[str]) -> ctypes.CDLL:
    with tempfile.TemporaryDirectory(prefix="pocketpipe-") as build:
        library = Path(build) / "model.so"
        command = (*compiler, "-shared", "-fPIC", SOURCE, "-o", str(library))
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise UserError(f"{compiler[0]} could not compile {folder / SOURCE}: {complaint(done.stderr)}")
        return ctypes.CDLL(str(library))  # stays in memory when the file is gone
