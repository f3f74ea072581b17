"""C99 for tools of high-level synthesis, with an estimate of what it takes on an FPGA; executed as a program here."""

import platform
from pathlib import Path

import numpy as np

from pocketpipe.delivery.compiling import CompiledSources
from pocketpipe.delivery.metadata import DeliveryMetadata, Footprint
from pocketpipe.errors import UserError
from pocketpipe.integer.graph import IntegerGraph
from pocketpipe.targets.base import TARGETS
from pocketpipe.targets.c99.resources import resources, sheet
from pocketpipe.targets.c99.sources import UNROLL, Sources
from pocketpipe.targets.c99.target import ACCUMULATOR_BITS, C_SOURCES, Built, C99Target
from pocketpipe.targets.toolchain import find_toolchain

SHEET = "resources.md"
CLOCK_MHZ = 100.0
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O3")

USAGE = """## On an FPGA

The top function is `pocketpipe_run`. Its arguments are arrays, its memory is static, its sizes are constants. Define
`POCKETPIPE_VITIS` for AMD Vitis HLS, or `POCKETPIPE_INTEL` for Intel's HLS Compiler, and the macros in `kernels.h`
become pragmas; `POCKETPIPE_UNROLL` is the number of products formed in a cycle. `testbench.c` is the test bench, the
folder of the golden vectors its argument:

```tcl
open_project -reset network
set_top pocketpipe_run
add_files model.c -cflags "-DPOCKETPIPE_VITIS"
add_files -tb testbench.c
open_solution -reset solution
set_part xc7z020clg400-1
create_clock -period @PERIOD@
csim_design -argv [file normalize golden]
csynth_design
```

`resources.md` estimates cycles and blocks; no synthesis tool has seen these sources yet."""


class Fpga(C99Target):
    """Sources for synthesis. `unroll`: products that a circuit forms in a cycle; `clock_mhz`: for the estimate.
    `accumulator_bits`: what every sum of products or of a window must be proven to fit, where the circuit is to have
    fewer than the sources' 32.

    Another size than the default is a target of one's own: `my.targets:wide` with `wide = Fpga(unroll=32)`.
    """

    name = "fpga"
    library_name = "model.c"
    timed = False

    def __init__(
        self, *, unroll: int = UNROLL, clock_mhz: float = CLOCK_MHZ, accumulator_bits: int = ACCUMULATOR_BITS
    ) -> None:
        if unroll < 1 or clock_mhz <= 0 or not 2 <= accumulator_bits <= ACCUMULATOR_BITS:
            raise UserError(
                f"target fpga: unroll={unroll} must be 1 or more, clock_mhz={clock_mhz:g} above 0, "
                f"accumulator_bits={accumulator_bits} 2 to {ACCUMULATOR_BITS}"
            )
        self.unroll, self.clock_mhz, self.accumulator_bits = unroll, clock_mhz, accumulator_bits

    def __repr__(self) -> str:
        sizes = f"unroll={self.unroll}, clock_mhz={self.clock_mhz:g}, accumulator_bits={self.accumulator_bits}"
        return f"Fpga({sizes})"

    def check(self) -> None:
        """Raise UserError if there is no C compiler to execute the sources with."""
        find_toolchain(platform.machine())

    def build(self, graph: IntegerGraph, made: Sources, delivery: Path) -> Built:
        """Add the resource sheet."""
        found = resources(graph, made, unroll=self.unroll, clock_mhz=self.clock_mhz)
        (delivery / SHEET).write_text(sheet(found))
        size = sum((delivery / name).stat().st_size for name in C_SOURCES)
        return Built(
            cpu="C99 for synthesis",
            footprint=Footprint(
                weights=made.constants, arena=made.arena, library=size, flash=made.constants, ram=made.arena
            ),
            sizes={"weights and tables, in memory blocks": made.constants, "working memory, likewise": made.arena},
            usage=USAGE.replace("@PERIOD@", f"{1000 / self.clock_mhz:g}"),
            resources=found,
        )

    def execute(self, folder: Path, metadata: DeliveryMetadata, entering: np.ndarray) -> np.ndarray:
        """In this process, compiled for this machine under the strictest flags."""
        command = (*find_toolchain(platform.machine()).shared, *STRICT, "-nostdlib")
        return CompiledSources(folder, metadata, command).integers(entering)


TARGETS.register(Fpga.name)(Fpga())
