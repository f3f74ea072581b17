"""Compiling for a processor that runs Linux: kernels by TVM, a plain C call sequence, one shared library."""

import hashlib
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from pocketpipe.delivery.folder import HEADER, RUNNER_SOURCE, appearing_whole, write_description, write_sources
from pocketpipe.delivery.loader import LIBRARY_FILE
from pocketpipe.delivery.metadata import DeliveryMetadata, Footprint
from pocketpipe.errors import UserError
from pocketpipe.targets.source import EXPORTS, WEIGHTS_FILE, model_source
from pocketpipe.targets.toolchain import Toolchain

if TYPE_CHECKING:
    from pocketpipe.targets.lowering.cpu import Cpu
    from pocketpipe.targets.lowering.program import Program

RUNNER = "runner"


def compile_native(
    onnx: bytes,
    metadata: DeliveryMetadata,
    folder: Path,
    *,
    cpu: "Cpu",
    toolchain: Toolchain,
    programs: tuple[str, ...] = (),
    run: str,
) -> None:
    """Write the delivery folder of `onnx` for `cpu`.

    `programs`: RUNNER to deliver the runner as a static program too. `run`: command line of the runner, for the README.
    """
    from pocketpipe.targets.lowering.program import lower

    with tempfile.TemporaryDirectory(prefix="pocketpipe-") as scratch, appearing_whole(folder) as delivery:
        build = Path(scratch)
        program = lower(onnx, cpu, build / "kernels.o")
        _check_shapes(program, metadata)
        _write_sources(program, build)
        toolchain.link_library(["model.c", "kernels.o"], LIBRARY_FILE, "exports.map", build)
        if RUNNER in programs:
            toolchain.link_program([RUNNER_SOURCE, "model.c", "kernels.o"], RUNNER, build)
        for name in (LIBRARY_FILE, *programs):
            shutil.copy(build / name, delivery / name)
        write_sources(delivery)
        filled = _fill_in(metadata, program, cpu, toolchain, delivery, (LIBRARY_FILE, *programs))
        compiler = "cc" if metadata.target == "x86_64" else f"{metadata.target}-linux-gnu-gcc"
        write_description(
            delivery, filled, build=f"{compiler} -O2 {RUNNER_SOURCE} {LIBRARY_FILE} -Wl,-rpath,. -o runner", run=run
        )


def _write_sources(program: "Program", build: Path) -> None:
    write_sources(build)
    (build / "model.c").write_text(model_source(program))
    (build / WEIGHTS_FILE).write_bytes(program.weights)
    (build / "exports.map").write_text(EXPORTS)
    assert (build / HEADER).is_file()


def _check_shapes(program: "Program", metadata: DeliveryMetadata) -> None:
    if program.input_shape != (1, *metadata.input_shape):
        raise UserError(
            f"the ONNX file takes {program.input_shape}, but one example of task {metadata.task!r} is "
            f"{metadata.input_shape}: export it with batch 1"
        )


def _fill_in(
    metadata: DeliveryMetadata,
    program: "Program",
    cpu: "Cpu",
    toolchain: Toolchain,
    delivery: Path,
    binaries: tuple[str, ...],
) -> DeliveryMetadata:
    """The metadata with what is known only now."""
    hashes = {name: hashlib.sha256((delivery / name).read_bytes()).hexdigest() for name in binaries}
    linker, _, linker_version = toolchain.name.partition(" ")
    return metadata.model_copy(
        update={
            "output_shape": program.output_shape[1:],
            "cpu": str(cpu),
            "hashes": {**metadata.hashes, **hashes},
            "engines": {**metadata.engines, "apache-tvm": version("apache-tvm"), linker: linker_version},
            "footprint": Footprint(
                weights=len(program.weights),
                arena=program.arena_bytes,
                library=(delivery / LIBRARY_FILE).stat().st_size,
            ),
        }
    )
