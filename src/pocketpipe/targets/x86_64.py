"""This machine's own CPU, by the level of the x86-64 architecture that it reaches."""

import platform
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pocketpipe.delivery.loader import cpu_flags, load
from pocketpipe.delivery.metadata import DeliveryMetadata
from pocketpipe.errors import NotMeasured
from pocketpipe.integer.graph import IntegerGraph
from pocketpipe.targets.base import TARGETS, Target
from pocketpipe.targets.native import compile_native
from pocketpipe.targets.toolchain import find_toolchain

if TYPE_CHECKING:
    from pocketpipe.targets.lowering.cpu import Cpu

LEVELS: tuple[tuple[str, tuple[str, ...], int, int], ...] = (
    ("x86-64-v4", ("avx2", "avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl", "bmi2", "fma"), 16, 24),
    ("x86-64-v3", ("avx2", "bmi2", "fma"), 8, 12),
    ("x86-64-v2", ("sse4_1", "sse4_2", "ssse3"), 4, 12),
    ("x86-64", (), 4, 12),
)
"""(LLVM's name, flags that /proc/cpuinfo must show, float32 lanes, accumulator registers), best first.

Levels rather than CPU models: machines of one level get the same bytes, and the loader can say what a CPU lacks.
"""


class X8664(Target):
    """x86-64 Linux; executed directly."""

    name = "x86_64"

    def __repr__(self) -> str:
        return "X8664()"

    def check(self) -> None:
        """Raise UserError if there is no C compiler."""
        find_toolchain("x86_64")

    def compile(
        self, onnx: bytes, metadata: DeliveryMetadata, folder: Path, examples: np.ndarray | None = None
    ) -> None:
        """Write the delivery folder for this machine's level (see `Target.compile`)."""
        _compile(onnx, metadata, folder)

    def compile_integers(self, graph: IntegerGraph, metadata: DeliveryMetadata, folder: Path) -> None:
        """The same of an integer graph."""
        _compile(graph, metadata, folder)

    def run(self, folder: Path, inputs: np.ndarray) -> np.ndarray:
        """Outputs of the delivered library, in this process."""
        if platform.machine() != "x86_64":
            raise NotMeasured(f"code for x86_64 cannot be executed on {platform.machine()}; evaluate on such a machine")
        return load(folder)(inputs)


def _compile(network: bytes | IntegerGraph, metadata: DeliveryMetadata, folder: Path) -> None:
    cpu, flags = host_cpu(cpu_flags())
    compile_native(
        network,
        metadata.model_copy(update={"cpu_flags": flags}),
        folder,
        cpu=cpu,
        toolchain=find_toolchain("x86_64"),
        run="./runner input.f32 output.f32",
    )


def host_cpu(flags: frozenset[str]) -> tuple["Cpu", tuple[str, ...]]:
    """(the best level that a CPU with `flags` reaches, the flags that it rests on)."""
    from pocketpipe.targets.lowering.cpu import Cpu

    for model, needed, lanes, accumulators in LEVELS:
        if flags.issuperset(needed):
            return Cpu("x86_64-linux-gnu", model, (), lanes, accumulators), needed
    raise AssertionError("the last level needs nothing")


TARGETS.register(X8664.name)(X8664())
