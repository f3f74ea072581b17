"""A bare Cortex-M4: C99 and an image for a board, executed on the board that QEMU emulates."""

import shutil
from importlib.resources import files
from pathlib import Path

import numpy as np

from pocketpipe.delivery.metadata import DeliveryMetadata, Footprint
from pocketpipe.errors import UserError
from pocketpipe.integer.graph import IntegerGraph
from pocketpipe.targets.base import TARGETS
from pocketpipe.targets.c99.elf import flash_and_ram
from pocketpipe.targets.c99.golden import one_example
from pocketpipe.targets.c99.sources import MODEL, Sources
from pocketpipe.targets.c99.target import C_SOURCES, Built, C99Target, built_apart
from pocketpipe.targets.counting import instructions_of
from pocketpipe.targets.executing import emulator, outputs_in_slices
from pocketpipe.targets.toolchain import as_engine, gnu_name, must_compile, ziglang

CPU = "cortex-m4"
IMAGE, BOARD, LINKING = "model.elf", "cortex_m.c", "cortex_m.ld"

BOARD_BYTES = 4 * 2**20
"""Of flash, and of RAM: see the linker script."""

EMULATOR = "qemu-system-arm"
MACHINE = ("-M", "mps2-an386", "-nographic", "-semihosting-config", "enable=on,target=native")

GNU = "arm-none-eabi-gcc"
OPTIONS = (
    "-std=gnu99", "-Wall", "-Wextra", "-Werror", "-g0", "-ffreestanding", "-nostdlib", "-fno-builtin",
    "-ffunction-sections", "-fdata-sections",
)  # fmt: skip
"""GNU's C for the board's start, which is written with registers; the network itself is plain C99."""

SMALL, OPTIMIZE = "-Os", ("-Os", "-O2", "-O3")
"""Flash is what budgets are about, so small code is the default."""

LINK = ("-Wl,--gc-sections", "-Wl,--build-id=none", "-Wl,-n", "-s", "-T", LINKING, BOARD, MODEL)


class CortexM(C99Target):
    """A bare Cortex-M4: no operating system, no C library, started from the vector table.

    `optimize`: the compiler's option. Faster code takes more flash and is a target of one's own: `my.targets:fast` with
    `fast = CortexM(optimize="-O2")`.
    """

    name = "cortex_m"
    library_name = IMAGE
    emulated = True

    def __init__(self, *, optimize: str = SMALL) -> None:
        if optimize not in OPTIMIZE:
            raise UserError(f"target cortex_m: optimize={optimize!r} is not known; known: {', '.join(OPTIMIZE)}")
        self.optimize = optimize

    def __repr__(self) -> str:
        return f"CortexM(optimize={self.optimize!r})"

    def check(self) -> None:
        """Raise UserError if there is no C compiler for a bare ARM."""
        _compiler()

    def build(self, graph: IntegerGraph, made: Sources, delivery: Path) -> Built:
        """Add start-up code, linker script and the image."""
        if made.constants > BOARD_BYTES or made.arena > BOARD_BYTES:
            raise UserError(
                f"target cortex_m: weights and tables take {made.constants:,} bytes, working memory {made.arena:,};"
                f" the board has {BOARD_BYTES:,} of flash and of RAM; set budget.flash_kb and ram_kb"
            )
        for name in (BOARD, LINKING):
            (delivery / name).write_text((files("pocketpipe.targets.c99") / name).read_text())
        compiler, command, libraries = _compiler()
        with built_apart(delivery, IMAGE, (*C_SOURCES, BOARD, LINKING)) as build:
            must_compile(compiler, (*command, self.optimize, *OPTIONS, *LINK, *libraries, "-o", IMAGE), build)
        flash, ram = flash_and_ram(delivery / IMAGE)
        library = (delivery / IMAGE).stat().st_size
        return Built(
            cpu=CPU,
            footprint=Footprint(weights=made.constants, arena=made.arena, library=library, flash=flash, ram=ram),
            sizes={
                "flash: code, constants and initial data": flash,
                "of which weights and tables": made.constants,
                "RAM: data and stack": ram,
                "of which working memory": made.arena,
            },
            usage=_USAGE.replace("@OPTIMIZE@", self.optimize),
            engines=as_engine(compiler),
        )

    def execute(self, folder: Path, metadata: DeliveryMetadata, entering: np.ndarray) -> np.ndarray:
        """Of the delivered image on the emulated board, one board for each CPU: many examples in one start."""
        return outputs_in_slices(self.command(folder), entering, np.dtype(np.int8))

    def measured(self, folder: Path) -> dict[str, float]:
        """Executed instructions on the emulated board."""
        return instructions_of(lambda: self.command(folder), one_example(folder))

    def host(self) -> str:
        """Whether what is delivered can be executed here: once it can, it is measured."""
        return EMULATOR if shutil.which(EMULATOR) else ""

    def command(self, folder: Path) -> tuple[str, ...]:
        """What runs the delivered image here. Raises NotMeasured if nothing can."""
        image = str((folder / IMAGE).absolute())
        return (emulator(EMULATOR, code="a bare Cortex-M", package="qemu-system-arm"), *MACHINE, "-kernel", image)


def _compiler() -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """(name and version, command line up to the options, libraries). Quick. Raises UserError if there is none."""
    zig = ziglang()
    if zig is not None:
        name, command = zig
        return name, (*command, "-target", "thumb-freestanding-eabi", f"-mcpu={CPU.replace('-', '_')}"), ()
    if shutil.which(GNU):
        return gnu_name(GNU), (GNU, "-mthumb", f"-mcpu={CPU}"), ("-lgcc",)
    raise UserError("no C compiler for a bare Cortex-M; `pip install ziglang` brings one")


_USAGE = f"""## On the board

`{BOARD}` is the start (vector table, memory, then the network on every example of the host's `input.bin`, read by
semihosting), `{LINKING}` the map of memory, `{IMAGE}` the two with the network. Flash and RAM above are those of the
image's sections, 2 kB of stack included. In an application of your own, add `model.c` and call it.

```sh
{GNU} -mcpu={CPU} -mthumb @OPTIMIZE@ -ffreestanding -nostdlib -ffunction-sections -fdata-sections \\
    -Wl,--gc-sections -T {LINKING} {BOARD} {MODEL} -lgcc -o own.elf
cp golden/inputs.bin input.bin
{EMULATOR} {" ".join(MACHINE)} -kernel own.elf
cmp output.bin golden/outputs.bin
```"""

TARGETS.register(CortexM.name)(CortexM())
