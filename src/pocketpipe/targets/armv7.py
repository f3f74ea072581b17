"""32-bit ARM Linux with NEON (Raspberry Pi 2, most boards before 64 bits), as C99 and a static program."""

import platform
import shutil
from pathlib import Path

import numpy as np

from pocketpipe.delivery.folder import RUNNER_SOURCE
from pocketpipe.delivery.metadata import DeliveryMetadata, Footprint
from pocketpipe.integer.graph import IntegerGraph
from pocketpipe.profile import STACK_BYTES
from pocketpipe.targets.base import TARGETS
from pocketpipe.targets.c99.elf import flash_and_ram
from pocketpipe.targets.c99.golden import one_example
from pocketpipe.targets.c99.sources import MODEL, Sources
from pocketpipe.targets.c99.target import C_SOURCES, Built, C99Target, built_apart
from pocketpipe.targets.counting import instructions_of
from pocketpipe.targets.executing import INPUT, OUTPUT, emulator, outputs_in_slices
from pocketpipe.targets.toolchain import as_engine, find_toolchain

CPU = "cortex-a7"
"""ARMv7-A with NEON; QEMU is told to be one, so that an instruction that it lacks is found."""

EMULATOR = "qemu-arm"
RUNNER = "runner"


class Armv7(C99Target):
    """32-bit ARM Linux; executed under QEMU where there is no ARM."""

    name = "armv7"
    library_name = RUNNER
    emulated = platform.machine() != "armv7l"

    def __repr__(self) -> str:
        return "Armv7()"

    def check(self) -> None:
        """Raise UserError if there is no C compiler for ARM."""
        find_toolchain("arm")

    def build(self, graph: IntegerGraph, made: Sources, delivery: Path) -> Built:
        """Add the runner as a static program."""
        toolchain = find_toolchain("arm")
        with built_apart(delivery, RUNNER, (*C_SOURCES, RUNNER_SOURCE)) as build:
            toolchain.link_program((RUNNER_SOURCE, MODEL), RUNNER, build, toolchain.for_cpu(CPU))
        flash, static = flash_and_ram(delivery / RUNNER)
        ram = static + STACK_BYTES
        library = (delivery / RUNNER).stat().st_size
        return Built(
            cpu=f"armv7 {CPU}",
            footprint=Footprint(weights=made.constants, arena=made.arena, library=library, flash=library, ram=ram),
            sizes={
                f"program (`{RUNNER}`)": library,
                "of which code and constants": flash,
                "of which weights and tables": made.constants,
                "static memory, working memory and 2 kB for the stack included": ram,
                "of which working memory": made.arena,
            },
            usage=f"""## On the board

`{RUNNER}` is a static program that needs no library where it runs:

```sh
./{RUNNER} golden/inputs.bin outputs.bin && cmp outputs.bin golden/outputs.bin
```""",
            engines=as_engine(toolchain.name),
        )

    def execute(self, folder: Path, metadata: DeliveryMetadata, entering: np.ndarray) -> np.ndarray:
        """Of the delivered program, with a slice of the examples for each CPU."""
        return outputs_in_slices(self.command(folder), entering, np.dtype(np.int8))

    def measured(self, folder: Path) -> dict[str, float]:
        """Executed instructions under QEMU."""
        return instructions_of(lambda: self.command(folder), one_example(folder)) if self.emulated else {}

    def host(self) -> str:
        """Whether what is delivered can be executed here: once it can, it is measured."""
        return EMULATOR if self.emulated and shutil.which(EMULATOR) else ""

    def command(self, folder: Path) -> tuple[str, ...]:
        """What runs the delivered program here. Raises NotMeasured if nothing can."""
        program = (str((folder / RUNNER).absolute()), INPUT, OUTPUT)
        if not self.emulated:
            return program
        return (emulator(EMULATOR, code="32-bit ARM code", package="qemu-user"), "-cpu", CPU, *program)


TARGETS.register(Armv7.name)(Armv7())
