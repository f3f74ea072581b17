"""Compiling for a processor that runs Linux: kernels by TVM, a plain C call sequence, one shared library."""

import hashlib
import shutil
import tempfile
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from pocketpipe.delivery.folder import RUNNER_SOURCE, appearing_whole, write_readme, write_sources
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
        _write_build_files(program, build)
        toolchain.link_library(["model.c", "kernels.o"], LIBRARY_FILE, EXPORTS, build)
        if RUNNER in programs:
            toolchain.link_program([RUNNER_SOURCE, "model.c", "kernels.o"], RUNNER, build)
        for name in (LIBRARY_FILE, *programs):
            shutil.copy(build / name, delivery / name)
        _write_header_and_runner(program, delivery)
        filled = _fill_in(metadata, program, cpu, toolchain, delivery)
        compiler = "cc" if metadata.target == "x86_64" else f"{metadata.target}-linux-gnu-gcc"
        build_line = f"{compiler} -O2 {RUNNER_SOURCE} {LIBRARY_FILE} -Wl,-rpath,. -o runner"
        write_readme(delivery, filled, build=build_line, run=run)
        filled.model_copy(update={"hashes": {**metadata.hashes, **_digests(delivery)}}).write(delivery)


def _write_build_files(program: "Program", build: Path) -> None:
    _write_header_and_runner(program, build)
    (build / "model.c").write_text(model_source(program))
    (build / WEIGHTS_FILE).write_bytes(program.weights)


def _write_header_and_runner(program: "Program", folder: Path) -> None:
    write_sources(
        folder,
        inputs=prod(program.input_shape),
        outputs=prod(program.output_shape),
        arena=program.arena_bytes,
    )


def _check_shapes(program: "Program", metadata: DeliveryMetadata) -> None:
    if program.input_shape != (1, *metadata.input_shape):
        raise UserError(
            f"the ONNX file takes {program.input_shape}, but one example of task {metadata.task!r} is "
            f"{metadata.input_shape}: export it with batch 1"
        )


def _fill_in(
    metadata: DeliveryMetadata, program: "Program", cpu: "Cpu", toolchain: Toolchain, delivery: Path
) -> DeliveryMetadata:
    """The metadata with what is known only now."""
    linker, _, linker_version = toolchain.name.partition(" ")
    return metadata.model_copy(
        update={
            "output_shape": program.output_shape[1:],
            "cpu": str(cpu),
            "engines": {**metadata.engines, "apache-tvm": version("apache-tvm"), linker: linker_version},
            "footprint": Footprint(
                weights=len(program.weights),
                arena=program.arena_bytes,
                library=(delivery / LIBRARY_FILE).stat().st_size,
            ),
        }
    )


def _digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file by its name."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}
