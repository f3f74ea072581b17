"""What the targets share that deliver the integer network as C99."""

from __future__ import annotations

import shutil
import tempfile
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import numpy as np

from pocketpipe.delivery.folder import CMAKE, README, RUN, digests, write_golden, write_runner
from pocketpipe.delivery.integers import BYTES, Integers
from pocketpipe.delivery.metadata import DeliveryMetadata, Footprint
from pocketpipe.delivery.readme import page
from pocketpipe.delivery.resources import Resources
from pocketpipe.errors import UserError
from pocketpipe.integer import reference
from pocketpipe.integer.graph import IntegerGraph
from pocketpipe.integer.lowering import is_quantized, lower
from pocketpipe.integer.proof import prove
from pocketpipe.storage import appearing_whole
from pocketpipe.targets.base import Target
from pocketpipe.targets.c99.describing import about, ends, usage
from pocketpipe.targets.c99.golden import SELFTEST, made_up, selftest
from pocketpipe.targets.c99.sources import HEADER, UNROLL, Sources, check, sources
from pocketpipe.targets.entering import byte_tables

TESTBENCH = "testbench.c"
ACCUMULATOR_BITS = 32
"""Of the sums in the sources."""
C_SOURCES = ("model.h", "model.c", "kernels.h", "weights.h")


@dataclass(frozen=True)
class Built:
    """What a target adds to the C sources in a delivery folder."""

    cpu: str
    footprint: Footprint
    sizes: Mapping[str, int]
    """Bytes by what takes them, for the README."""
    usage: str
    """README sections: how this target's own files are built and run."""
    engines: Mapping[str, str] = field(default_factory=dict)
    """Versions of the compilers that made files of the delivery."""
    resources: Resources | None = None


class C99Target(Target):
    """Delivers C sources, golden vectors, a test bench and a runner; what else, a subclass says."""

    integer_only = True
    unroll: int = UNROLL
    """Products that a circuit made of the sources forms in a cycle."""
    accumulator_bits: int = ACCUMULATOR_BITS
    """That every sum of products or of a window must be proven to fit."""

    @abstractmethod
    def build(self, graph: IntegerGraph, made: Sources, delivery: Path) -> Built:
        """Add this target's own files to `delivery`, where the C sources lie."""

    @abstractmethod
    def execute(self, folder: Path, metadata: DeliveryMetadata, entering: np.ndarray) -> np.ndarray:
        """int8 outputs, flat, of the delivered artefact for `entering` (N, ...), uint8 or int8 as it takes them.

        Raises NotMeasured if this machine cannot execute it.
        """

    def compile(
        self, onnx: bytes, metadata: DeliveryMetadata, folder: Path, examples: np.ndarray | None = None
    ) -> None:
        """Write the delivery folder (see `Target.compile`). Raises UserError for a file in float."""
        if not is_quantized(onnx):
            raise UserError(f"target {self.name} needs integers: add quantization to methods")
        self._deliver(lower(onnx), metadata, folder, examples)

    def check_integers(self, graph: IntegerGraph) -> None:
        """Whether there are kernels for all of it."""
        check(graph, graph.operators)

    def compile_integers(self, graph: IntegerGraph, metadata: DeliveryMetadata, folder: Path) -> None:
        """The same of an integer graph."""
        self._deliver(graph, metadata, folder, None)

    def run(self, folder: Path, inputs: np.ndarray) -> np.ndarray:
        """Outputs of the delivered artefact, as the real numbers that its integers stand for."""
        metadata = DeliveryMetadata.read(folder)
        integers = metadata.integers
        assert integers is not None, "deliveries in C say what their integers stand for"
        outputs = self.execute(folder, metadata, integers.entering(inputs, metadata.preprocessing))
        return integers.leaving(outputs.reshape(len(inputs), *metadata.output_shape))

    def _deliver(
        self, graph: IntegerGraph, metadata: DeliveryMetadata, folder: Path, examples: np.ndarray | None
    ) -> None:
        if metadata.threads > 1:
            raise UserError(f"target {self.name} runs on one thread, not on {metadata.threads}")
        prove(graph, self.accumulator_bits, offset=0)
        entry, leaving = graph.tensors[graph.input], graph.tensors[graph.output]
        metadata.check_input((1, *entry.shape))
        if examples is not None:
            metadata.check_examples(examples)
        integers = Integers(input=None if metadata.input_dtype == BYTES else entry, output=leaving)
        tables = graph.quantized(byte_tables(metadata.preprocessing)) if integers.input is None else None
        made = sources(graph, tables, self.unroll)
        metadata = metadata.model_copy(update={"output_shape": leaving.shape, "integers": integers})
        with appearing_whole(folder) as delivery:
            _write_sources(delivery, made, integers, entry.elements, leaving.elements)
            _write_golden(delivery, graph, integers, metadata, examples)
            built = self.build(graph, made, delivery)
            filled = metadata.model_copy(
                update={
                    "cpu": built.cpu,
                    "engines": {**metadata.engines, **built.engines},
                    "footprint": built.footprint,
                    "resources": built.resources,
                }
            )
            text = page(
                filled, about=about(filled), sizes=built.sizes, ends=ends(filled), usage=usage(filled, built.usage)
            )
            (delivery / README).write_text(text)
            filled.model_copy(update={"hashes": {**metadata.hashes, **digests(delivery)}}).write(delivery)


@contextmanager
def built_apart(delivery: Path, result: str, needed: Sequence[str]) -> Iterator[Path]:
    """A folder that holds the `needed` files of the delivery. The `result` of the block goes from there into the
    delivery; what else compilers leave goes away.
    """
    with tempfile.TemporaryDirectory(prefix="pocketpipe-") as scratch:
        build = Path(scratch)
        for name in needed:
            shutil.copy(delivery / name, build)
        yield build
        shutil.copy(build / result, delivery)


def _write_sources(delivery: Path, made: Sources, integers: Integers, inputs: int, outputs: int) -> None:
    for name, text in made.files.items():
        (delivery / name).write_text(text)
    for name in (TESTBENCH, CMAKE):
        (delivery / name).write_text((files("pocketpipe.targets.c99") / name).read_text())
    write_runner(delivery, header=HEADER, run=RUN, inputs=(integers.input_type, inputs), outputs=("int8_t", outputs))


def _write_golden(
    delivery: Path, graph: IntegerGraph, integers: Integers, metadata: DeliveryMetadata, examples: np.ndarray | None
) -> None:
    if examples is None and integers.input is not None:
        entering = made_up(metadata.input_shape, np.dtype(np.int8)).clip(integers.input.low, integers.input.high)
        inside = entering
    else:
        stored = made_up(metadata.input_shape, np.dtype(np.uint8)) if examples is None else examples
        entering = integers.entering(stored, metadata.preprocessing)
        inside = graph.quantized(metadata.preprocessing(stored))
    leaving = reference.run(graph, inside)
    write_golden(delivery, entering.tobytes(), leaving.tobytes())
    (delivery / SELFTEST).write_text(selftest(entering, leaving))
