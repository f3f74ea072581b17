"""Kernels of one workload in one library, on equal data, in turns."""

import ctypes
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
from tvm.tirx import PrimFunc

from pocketpipe.targets.lowering.cpu import Cpu
from pocketpipe.targets.lowering.objects import write_object
from pocketpipe.targets.toolchain import Toolchain

ROUND_SECONDS = 3e-4
"""How long a kernel runs in one round at least; repeated in C, so that the call from Python does not count."""

_REPEAT = """\
extern void {name}({types});
void repeat_{name}(int times, {parameters}) {{
    while (times--) {name}({arguments});
}}
"""


@dataclass(frozen=True)
class Contender:
    """A kernel, and the data that it is called on: the output last."""

    kernel: PrimFunc
    arguments: Sequence[np.ndarray]


class Bench:
    """Kernels of one workload, ready to be timed beside each other."""

    def __init__(self, contenders: Sequence[Contender], cpu: Cpu, toolchain: Toolchain) -> None:
        """Compile. Raises whatever TVM or the compiler says of a kernel that cannot be."""
        named = {f"kernel{number}": contender for number, contender in enumerate(contenders)}
        with tempfile.TemporaryDirectory(prefix="pocketpipe-") as scratch:
            folder = Path(scratch)
            functions = {name: contender.kernel for name, contender in named.items()}
            workspaces = write_object(functions, cpu, folder / "kernels.o")
            counts = {name: len(each.arguments) + len(workspaces[name]) for name, each in named.items()}
            (folder / "repeat.c").write_text("".join(_repeat(name, count) for name, count in counts.items()))
            exported = "{ global: repeat_*; local: *; };"
            toolchain.link_library(["repeat.c", "kernels.o"], "bench.so", exported, folder)
            library = ctypes.CDLL(str(folder / "bench.so"))  # stays in memory when the file is gone
        self._functions = [library[f"repeat_{name}"] for name in named]
        self._arguments = [[_aligned(array) for array in contender.arguments] for contender in contenders]
        self._extra = [[_aligned(np.zeros(size, np.uint8)) for size in workspaces[name]] for name in named]
        self._times = [self._calibrated(number) for number in range(len(named))]

    def outputs(self) -> list[np.ndarray]:
        """Of each kernel."""
        found = []
        for number in range(len(self._functions)):
            output = self._arguments[number][-1]
            output.fill(0)
            self._call(number, 1)
            found.append(output.copy())
        return found

    def seconds(self, rounds: int) -> list[list[float]]:
        """Of each kernel in each round; within a round they take turns."""
        found: list[list[float]] = [[] for _ in self._functions]
        for _ in range(rounds):
            for number, times in enumerate(self._times):
                found[number].append(self._call(number, times) / times)
        return found

    def _calibrated(self, number: int) -> int:
        self._call(number, 1)
        once = min(self._call(number, 1) for _ in range(3))
        return max(1, int(ROUND_SECONDS / max(once, 1e-7)))

    def _call(self, number: int, times: int) -> float:
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in (*self._arguments[number], *self._extra[number])]
        started = perf_counter()
        self._functions[number](times, *pointers)
        return perf_counter() - started


def _repeat(name: str, count: int) -> str:
    names = [f"p{number}" for number in range(count)]
    return _REPEAT.format(
        name=name, types=", ".join(["void *"] * count), parameters=", ".join(f"void *{each}" for each in names),
        arguments=", ".join(names),
    )  # fmt: skip


def _aligned(array: np.ndarray) -> np.ndarray:
    """The same numbers from an address that is a multiple of 64, with room behind."""
    size = array.nbytes
    memory = np.zeros(size + 256, np.uint8)
    start = -memory.ctypes.data % 64
    placed = memory[start : start + size]
    placed[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return placed.view(array.dtype)
