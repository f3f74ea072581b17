"""Compiling for a processor that runs Linux: kernels by TVM, a plain C call sequence, one shared library."""

import shutil
import tempfile
from abc import abstractmethod
from dataclasses import dataclass
from importlib.metadata import version
from math import prod
from pathlib import Path
from statistics import median
from timeit import repeat
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketpipe.delivery.folder import RUNNER_SOURCE, digests, write_golden, write_readme, write_sources
from pocketpipe.delivery.integers import BYTES
from pocketpipe.delivery.loader import load_library
from pocketpipe.delivery.metadata import DeliveryMetadata, Footprint
from pocketpipe.delivery.model import LIBRARY_FILE
from pocketpipe.exporting.executing import run_onnx
from pocketpipe.integer import reference
from pocketpipe.integer.graph import IntegerGraph
from pocketpipe.integer.lowering import is_quantized, lower
from pocketpipe.storage import appearing_whole
from pocketpipe.targets.base import Target
from pocketpipe.targets.c99.sources import check
from pocketpipe.targets.entering import byte_tables
from pocketpipe.targets.settings import TuneSettings
from pocketpipe.targets.source import WEIGHTS_FILE, Sources, exports, integer_sources, model_sources
from pocketpipe.targets.toolchain import Toolchain, as_engine, find_toolchain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pocketpipe.targets.lowering.cpu import Cpu
    from pocketpipe.targets.lowering.fusing import Chosen as FloatsChosen
    from pocketpipe.targets.lowering.integers.program import Chosen as IntegersChosen

RUNNER, ARCHIVE = "runner", "libmodel.a"
KERNELS = "kernels.o"
SOURCES = ("model.c", KERNELS)
THREADS = ("-lpthread",)
WARM_UP, CALLS = 5, 50
"""When a delivery's latency is told; verdicts take more (`evaluate.latency_runs`)."""


class NativeTarget(Target):
    """A processor that runs Linux: what its targets have in common. `architecture` is that of its C compiler."""

    threaded = True
    architecture: str

    @abstractmethod
    def cpu(self) -> "Cpu":
        """For code generation."""

    @abstractmethod
    def deliver(
        self,
        network: bytes | IntegerGraph,
        metadata: DeliveryMetadata,
        folder: Path,
        chosen: "Mapping[Any, Any] | None" = None,
        examples: np.ndarray | None = None,
    ) -> None:
        """Write the delivery folder; see `compile_native`."""

    def check(self) -> None:
        """Raise UserError if there is no C compiler for it."""
        find_toolchain(self.architecture)

    def compile(
        self, onnx: bytes, metadata: DeliveryMetadata, folder: Path, examples: np.ndarray | None = None
    ) -> None:
        """Write the delivery folder (see `Target.compile`)."""
        self.deliver(onnx, metadata, folder, examples=examples)

    def milliseconds(self, folder: Path) -> float:
        """Median time of a call of the delivered library, on this host."""
        library = load_library(folder)
        example = np.zeros((1, *library.metadata.input_shape), np.float32)
        times = repeat(lambda: library.run_prepared(example), number=1, repeat=WARM_UP + CALLS)
        return 1000 * median(times[WARM_UP:])

    def check_floats(self, onnx: bytes) -> None:
        """Whether TVM knows the operators."""
        from pocketpipe.targets.lowering.program import check_floats

        check_floats(onnx, self.cpu())

    def check_integers(self, graph: IntegerGraph) -> None:
        """Whether the plain C has kernels for what ours leave to it."""
        from pocketpipe.targets.lowering.integers.steps import left_to_plain_c, steps

        check(graph, (step.operator for step in steps(graph) if left_to_plain_c(step.operator, graph)))

    def compile_integers(self, graph: IntegerGraph, metadata: DeliveryMetadata, folder: Path) -> None:
        """The same of an integer graph."""
        self.deliver(graph, metadata, folder)

    def compile_tuned(
        self,
        onnx: bytes,
        metadata: DeliveryMetadata,
        folder: Path,
        settings: TuneSettings,
        records: Path,
        examples: np.ndarray | None = None,
    ) -> dict[str, float]:
        """With measured schedules (see `Target.compile_tuned`)."""
        from pocketpipe.targets.tuning.delivering import deliver

        def write(network: bytes | IntegerGraph, to: Path, chosen: "Mapping[Any, Any]") -> None:
            self.deliver(network, metadata.model_copy(update={"tuned": len(chosen)}), to, chosen, examples)

        toolchain = find_toolchain(self.architecture)
        return deliver(onnx, folder, self.cpu(), toolchain, metadata.threads, settings, records, write)


def compile_native(
    network: bytes | IntegerGraph,
    metadata: DeliveryMetadata,
    folder: Path,
    *,
    cpu: "Cpu",
    toolchain: Toolchain,
    programs: tuple[str, ...] = (),
    run: str,
    chosen: "Mapping[Any, Any] | None" = None,
    examples: np.ndarray | None = None,
) -> None:
    """Write the delivery folder of `network`, an ONNX file or an integer graph, for `cpu`.

    `programs`: RUNNER to deliver the runner as a static program too. `run`: command line of the runner, for the README.
    `chosen`: schedules and kernels that are not by rule (`tuning`). `examples` (N, *input_shape), as stored: golden
    vectors are made of them.
    """
    with tempfile.TemporaryDirectory(prefix="pocketpipe-") as scratch, appearing_whole(folder) as delivery:
        build = Path(scratch)
        if examples is not None:
            metadata.check_examples(examples)
        if isinstance(network, bytes) and is_quantized(network):
            network = lower(network)
        tables = byte_tables(metadata.preprocessing) if metadata.input_dtype == BYTES else None
        if isinstance(network, IntegerGraph):
            compiled = _integers(network, tables, cpu, toolchain, build, metadata.threads, chosen)
        else:
            compiled = _floats(network, tables, cpu, build, metadata.threads, chosen)
        metadata.check_input(compiled.input_shape)
        _write_header_and_runner(compiled, build)
        libraries = THREADS if compiled.threads > 1 else ()
        seen = exports(compiled.takes_bytes, compiled.threads)
        toolchain.link_library(SOURCES, LIBRARY_FILE, seen, build, compiled.options, libraries)
        toolchain.archive(SOURCES, ARCHIVE, build)
        if RUNNER in programs:
            toolchain.link_program([RUNNER_SOURCE, *SOURCES], RUNNER, build, compiled.options, libraries)
        for name in (LIBRARY_FILE, ARCHIVE, *programs):
            shutil.copy(build / name, delivery / name)
        _write_header_and_runner(compiled, delivery)
        if examples is not None:
            _write_golden(delivery, network, metadata, examples)
        filled = _fill_in(metadata, compiled, cpu, toolchain, delivery)
        compiler = "cc" if toolchain.machine == "x86_64" else f"{toolchain.machine}-linux-gnu-gcc"
        own = f"{RUNNER}_of_yours" if RUNNER in programs else RUNNER  # what is delivered is not overwritten
        build_line = f"{compiler} -O2 {RUNNER_SOURCE} {LIBRARY_FILE} -Wl,-rpath,. -o {own}"
        write_readme(delivery, filled, build=build_line, run=run)
        filled.model_copy(update={"hashes": {**metadata.hashes, **digests(delivery)}}).write(delivery)


@dataclass(frozen=True)
class _Compiled:
    """What is to be linked, and its figures."""

    input_shape: tuple[int, ...]
    """With the batch, which is 1; so is the output's."""
    output_shape: tuple[int, ...]
    arena: int
    weights: int
    takes_bytes: bool
    threads: int
    exact: bool
    """Whether its outputs are defined to the bit."""
    options: tuple[str, ...] = ()
    """For the C compiler."""


def _floats(
    onnx: bytes, tables: np.ndarray | None, cpu: "Cpu", build: Path, threads: int, chosen: "FloatsChosen | None"
) -> _Compiled:
    """Kernels by TVM."""
    from pocketpipe.targets.lowering.program import compile_floats

    program = compile_floats(onnx, cpu, build / KERNELS, threads, chosen)
    sources = model_sources(program, tables, threads)
    _write(sources, build)
    shapes = (program.input_shape, program.output_shape)
    return _Compiled(*shapes, sources.arena, len(sources.weights), tables is not None, threads, exact=False)


def _integers(
    graph: IntegerGraph,
    tables: np.ndarray | None,
    cpu: "Cpu",
    toolchain: Toolchain,
    build: Path,
    threads: int,
    chosen: "IntegersChosen | None",
) -> _Compiled:
    """Kernels by TVM where sums of products are taken; what is left is plain C, vectorized by the C compiler."""
    from pocketpipe.integer.proof import prove
    from pocketpipe.targets.lowering.integers.program import compile_integers

    prove(graph, offset=cpu.unit.offset)
    program = compile_integers(graph, cpu, build / KERNELS, threads, chosen)
    sources = integer_sources(program, graph, None if tables is None else graph.quantized(tables), threads)
    _write(sources, build)
    weights = len(sources.weights) + program.plain.constants.size
    shapes = ((1, *graph.tensors[graph.input].shape), (1, *graph.tensors[graph.output].shape))
    options = toolchain.for_cpu(cpu.model)
    return _Compiled(*shapes, sources.arena, weights, tables is not None, threads, True, options)


def _write(sources: Sources, build: Path) -> None:
    for name, text in sources.files.items():
        (build / name).write_text(text)
    (build / WEIGHTS_FILE).write_bytes(sources.weights)


def _write_header_and_runner(compiled: _Compiled, folder: Path) -> None:
    write_sources(
        folder,
        inputs=prod(compiled.input_shape),
        outputs=prod(compiled.output_shape),
        arena=compiled.arena,
        takes_bytes=compiled.takes_bytes,
        threads=compiled.threads,
        exact=compiled.exact,
    )


def _write_golden(
    delivery: Path, network: bytes | IntegerGraph, metadata: DeliveryMetadata, examples: np.ndarray
) -> None:
    """What the runner takes, and what it must give: in integers the reference's outputs, else ONNX Runtime's."""
    prepared = metadata.preprocessing(examples)
    if isinstance(network, IntegerGraph):
        outputs = network.real(reference.run(network, network.quantized(prepared)))
    else:
        outputs = run_onnx(network, prepared)
    entering = examples if metadata.input_dtype == BYTES else prepared
    write_golden(delivery, entering.tobytes(), outputs.tobytes())


def _fill_in(
    metadata: DeliveryMetadata, compiled: _Compiled, cpu: "Cpu", toolchain: Toolchain, delivery: Path
) -> DeliveryMetadata:
    """The metadata with what is known only now."""
    return metadata.model_copy(
        update={
            "output_shape": compiled.output_shape[1:],
            "cpu": str(cpu),
            "engines": {**metadata.engines, "apache-tvm": version("apache-tvm"), **as_engine(toolchain.name)},
            "footprint": Footprint(
                weights=compiled.weights,
                arena=compiled.arena,
                library=(delivery / LIBRARY_FILE).stat().st_size,
            ),
        }
    )
