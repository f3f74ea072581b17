"""x86-64 Linux: this machine's own level of the architecture, or one that is named."""

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketpipe.delivery.loader import load
from pocketpipe.delivery.metadata import DeliveryMetadata
from pocketpipe.delivery.model import cpu_flags, missing_flags
from pocketpipe.errors import NotMeasured
from pocketpipe.integer.graph import IntegerGraph
from pocketpipe.targets.base import TARGETS
from pocketpipe.targets.native import NativeTarget, compile_native
from pocketpipe.targets.toolchain import find_toolchain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pocketpipe.targets.lowering.cpu import Cpu


@dataclass(frozen=True)
class Level:
    """What a group of CPUs has in common.

    Levels rather than CPU models: machines of one level get the same bytes, and the loader can say what a CPU lacks.
    """

    model: str
    """LLVM's name."""
    flags: tuple[str, ...]
    """What /proc/cpuinfo must show."""
    lanes: int
    """float32 numbers in a vector register."""
    accumulators: int
    unit: str
    """Name of the vector unit that sums integers."""
    attributes: tuple[str, ...] = ()
    """What LLVM may use beyond the model."""

    def cpu(self) -> "Cpu":
        """For code generation."""
        from pocketpipe.targets.lowering.cpu import Cpu
        from pocketpipe.targets.lowering.integers import units

        unit = getattr(units, self.unit)
        return Cpu("x86_64-linux-gnu", self.model, self.attributes, self.lanes, self.accumulators, unit)


V2 = ("popcnt", "sse4_1", "sse4_2", "ssse3")
V3 = ("abm", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "popcnt")
"""All that LLVM may use of the level: what a virtual machine hides, code must not rely on. `abm` is `lzcnt`, which a
CPU without it takes for another instruction."""
V4 = ("avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl", *V3)

LEVELS = {
    "v4-vnni": Level("x86-64-v4", ("avx512_vnni", *V4), 16, 24, "VNNI_512", ("+avx512vnni",)),
    "v4": Level("x86-64-v4", V4, 16, 24, "PAIRS_512"),
    "v3-vnni": Level("x86-64-v3", ("avx_vnni", *V3), 8, 12, "VNNI_256", ("+avxvnni",)),
    "v3": Level("x86-64-v3", V3, 8, 12, "PAIRS_256"),
    "v2": Level("x86-64-v2", V2, 4, 12, "PAIRS_128"),
    "v1": Level("x86-64", (), 4, 12, "PAIRS_128"),
}
"""Best first."""


class X8664(NativeTarget):
    """x86-64 Linux at this machine's level, or at one of LEVELS; executed directly where the CPU has it."""

    architecture = "x86_64"

    def __init__(self, level: str | None = None) -> None:
        self.level = level
        self.name = "x86_64" if level is None else f"x86_64-{level}"

    def __repr__(self) -> str:
        return f"X8664({self.level!r})" if self.level else "X8664()"

    def run(self, folder: Path, inputs: np.ndarray) -> np.ndarray:
        """Outputs of the delivered library, in this process."""
        if platform.machine() != "x86_64":
            raise NotMeasured(f"code for x86_64 cannot be executed on {platform.machine()}; evaluate on such a machine")
        missing = missing_flags(DeliveryMetadata.read(folder).cpu_flags)
        if missing:
            raise NotMeasured(f"this CPU lacks {', '.join(missing)}; evaluate on one that has it")
        return load(folder)(inputs)

    def untunable(self) -> str | None:
        """Only on a CPU that has the level."""
        if platform.machine() != "x86_64":
            return f"cannot be executed on {platform.machine()}"
        missing = missing_flags(self._level().flags)
        return f"needs {', '.join(missing)}, which this CPU lacks" if missing else None

    def measured(self, folder: Path) -> dict[str, float]:
        """Milliseconds, on a CPU that has the level."""
        return {} if self.untunable() is not None else {"milliseconds": self.milliseconds(folder)}

    def host(self) -> str:
        """Without a level of its own: that of this CPU; else whether this one has it: once one does, it is measured."""
        if self.level:
            return "" if self.untunable() else "executed here"
        return next(name for name, level in LEVELS.items() if level == self._level())

    def channels_at_once(self, *, integers: bool) -> int:
        """Of floats a register; of integers, two sums of eight channels each."""
        return 8 if integers else self._level().lanes

    def cpu(self) -> "Cpu":
        """For code generation."""
        return self._level().cpu()

    def _level(self) -> Level:
        return LEVELS[self.level] if self.level else host_level(cpu_flags())

    def deliver(
        self,
        network: bytes | IntegerGraph,
        metadata: DeliveryMetadata,
        folder: Path,
        chosen: "Mapping[Any, Any] | None" = None,
        examples: np.ndarray | None = None,
    ) -> None:
        """Write the delivery folder (see `NativeTarget.deliver`)."""
        level = self._level()
        compile_native(
            network,
            metadata.model_copy(update={"cpu_flags": level.flags}),
            folder,
            cpu=level.cpu(),
            toolchain=find_toolchain(self.architecture),
            run="./runner input.bin output.f32",
            chosen=chosen,
            examples=examples,
        )


def host_level(flags: frozenset[str]) -> Level:
    """The best level that a CPU with `flags` reaches."""
    return next(level for level in LEVELS.values() if flags.issuperset(level.flags))


for _target in (X8664(), *(X8664(level) for level in ("v3", "v3-vnni", "v4", "v4-vnni"))):
    TARGETS.register(_target.name)(_target)
