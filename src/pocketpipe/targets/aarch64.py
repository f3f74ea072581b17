"""64-bit ARM Linux (Raspberry Pi 4 and later, most phones and boards); executed under QEMU where there is no ARM."""

import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketpipe.delivery.integers import BYTES, as_bytes
from pocketpipe.delivery.metadata import DeliveryMetadata
from pocketpipe.delivery.model import missing_flags
from pocketpipe.errors import NotMeasured
from pocketpipe.integer.graph import IntegerGraph
from pocketpipe.targets.base import TARGETS
from pocketpipe.targets.counting import instructions_of
from pocketpipe.targets.executing import INPUT, OUTPUT, emulator, outputs_in_slices
from pocketpipe.targets.native import RUNNER, NativeTarget, compile_native
from pocketpipe.targets.toolchain import find_toolchain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pocketpipe.targets.lowering.cpu import Cpu

BASELINE = "cortex-a72"
"""ARMv8.0 with NEON: runs on every 64-bit ARM of the last ten years."""

MODELS = {"cortex-a53": "SMLAL", "cortex-a72": "SMLAL", "cortex-a76": "SDOT"}
"""LLVM's name of a processor, and of the vector unit that sums integers on it.

QEMU is told to be that very processor, so that an instruction which it lacks is found.
"""

FLAGS = {"SMLAL": ("asimd",), "SDOT": ("asimd", "asimddp")}
"""What /proc/cpuinfo must show for code of each unit."""

ATTRIBUTES = {"SMLAL": ("+neon",), "SDOT": ("+neon", "+dotprod")}

EMULATOR = "qemu-aarch64"


class AArch64(NativeTarget):
    """64-bit ARM Linux, as a shared library and a static runner."""

    emulated = platform.machine() != "aarch64"
    architecture = "aarch64"

    def __init__(self, model: str | None = None) -> None:
        self.model = model or BASELINE
        self.name = "aarch64" if model is None else f"aarch64-{model}"

    def __repr__(self) -> str:
        return f"AArch64({self.model!r})"

    def channels_at_once(self, *, integers: bool) -> int:
        """A register of sums; `smlal` fills two."""
        return 8 if integers and MODELS[self.model] == "SMLAL" else 4

    def run(self, folder: Path, inputs: np.ndarray) -> np.ndarray:
        """Outputs of the delivered runner, with a slice of the inputs for each CPU that this process may use."""
        command = self.command(folder)
        metadata = DeliveryMetadata.read(folder)
        entering = as_bytes(inputs) if metadata.input_dtype == BYTES else metadata.preprocessing(inputs)
        outputs = outputs_in_slices(command, entering, np.dtype(np.float32))
        return outputs.reshape(len(inputs), *metadata.output_shape)

    def measured(self, folder: Path) -> dict[str, float]:
        """Executed instructions under QEMU; milliseconds on an ARM that has the processor's instructions."""
        if not self.emulated:
            return {} if self.untunable() is not None else {"milliseconds": self.milliseconds(folder)}
        metadata = DeliveryMetadata.read(folder)
        kind = np.uint8 if metadata.input_dtype == BYTES else np.float32
        return instructions_of(lambda: self.command(folder), np.zeros((1, *metadata.input_shape), kind))

    def untunable(self) -> str | None:
        """Only on an ARM that has the processor's instructions: an emulator's times say nothing."""
        if self.emulated:
            return f"cannot be timed on {platform.machine()}"
        missing = missing_flags(FLAGS[MODELS[self.model]])
        return f"needs {', '.join(missing)}, which this CPU lacks" if missing else None

    def deliver(
        self,
        network: bytes | IntegerGraph,
        metadata: DeliveryMetadata,
        folder: Path,
        chosen: "Mapping[Any, Any] | None" = None,
        examples: np.ndarray | None = None,
    ) -> None:
        """Write the delivery folder (see `NativeTarget.deliver`)."""
        compile_native(
            network,
            metadata.model_copy(update={"cpu_flags": FLAGS[MODELS[self.model]]}),
            folder,
            cpu=self.cpu(),
            toolchain=find_toolchain(self.architecture),
            programs=(RUNNER,),
            run=f"./{RUNNER} input.bin output.f32  # a delivered static program; elsewhere `{EMULATOR} ./{RUNNER} ...`",
            chosen=chosen,
            examples=examples,
        )

    def cpu(self) -> "Cpu":
        """For code generation."""
        from pocketpipe.targets.lowering.cpu import Cpu
        from pocketpipe.targets.lowering.integers import units

        unit = MODELS[self.model]
        attributes = ATTRIBUTES[unit]
        return Cpu("aarch64-linux-gnu", self.model, attributes, 4, 20, getattr(units, unit))

    def host(self) -> str:
        """Whether what is delivered can be executed here: once it can, it is measured."""
        try:
            self.command(Path())
        except NotMeasured:
            return ""
        return EMULATOR if self.emulated else "executed here"

    def command(self, folder: Path) -> tuple[str, ...]:
        """What runs the delivered runner here. Raises NotMeasured if nothing can."""
        runner = str((folder / RUNNER).absolute())
        if not self.emulated:
            if why := self.untunable():
                raise NotMeasured(f"{self.name} {why}; evaluate on one that has it")
            return (runner, INPUT, OUTPUT)
        found = emulator(EMULATOR, code="ARM code", package="qemu-user")
        if self.model not in _models_of(found):
            raise NotMeasured(f"this {EMULATOR} does not know {self.model}; QEMU 7.1 and later do")
        return (found, "-cpu", self.model, runner, INPUT, OUTPUT)


@cache
def _models_of(program: str) -> frozenset[str]:
    """Names of the processors that an emulator can be told to be."""
    told = subprocess.run((program, "-cpu", "help"), capture_output=True, text=True, check=False)
    return frozenset(told.stdout.split())


for _target in (AArch64(), *(AArch64(model) for model in MODELS if model != BASELINE)):
    TARGETS.register(_target.name)(_target)
