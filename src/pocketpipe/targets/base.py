"""Target: a kind of machine that a network is compiled for; the door through which targets become known."""

import tempfile
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np

from pocketpipe.delivery.metadata import DeliveryMetadata
from pocketpipe.delivery.model import LIBRARY_FILE
from pocketpipe.doors import Door
from pocketpipe.errors import NotMeasured
from pocketpipe.integer.graph import IntegerGraph
from pocketpipe.targets.settings import TuneSettings
from pocketpipe.task import Preprocessing


class Target(ABC):
    """Turns an ONNX file into a delivery folder, and runs what it delivered."""

    name: str
    library_name: str = LIBRARY_FILE
    """The delivered file on which figures are measured."""
    emulated: bool = False
    """Whether `run` goes through an emulator: right, but hundreds of times slower than the device."""
    timed: bool = True
    """Whether the time that a run takes on this host, without emulator, says something of the device."""
    threaded: bool = False
    """Whether its deliveries can share the work of an example among threads (`DeliveryMetadata.threads`)."""
    integer_only: bool = False
    """Whether it takes quantized files alone: a method has to bring the integers."""
    takes_recurrent: bool = False
    """Whether it compiles ONNX's LSTM, GRU and RNN, which is what torch's recurrent modules are exported as."""

    @abstractmethod
    def check(self) -> None:
        """Raise UserError if nothing here can compile for the target. Quick: asked before any work."""

    def host(self) -> str:
        """What of this machine decides what is compiled or measured for the target: part of a stage's fingerprint."""
        return ""

    @abstractmethod
    def compile(
        self, onnx: bytes, metadata: DeliveryMetadata, folder: Path, examples: np.ndarray | None = None
    ) -> None:
        """Write the whole delivery folder, which appears complete or not at all.

        `onnx`: float32 or QDQ, batch 1, one input and one output. `examples` (N, *input_shape), as stored: what golden
        vectors are made of where a target delivers them. Raises UserError for an operator that cannot be compiled.
        """

    def channels_at_once(self, *, integers: bool) -> int:
        """How many output channels its kernels compute together: in multiples of it no register is half full."""
        return 1

    @property
    def lowers(self) -> bool:
        """Whether it makes integers of a quantized file by our integer graph, rather than take it as it is."""
        return self.integer_only or type(self).compile_integers is not Target.compile_integers

    def check_floats(self, onnx: bytes) -> None:
        """Raise UserError, naming the operator, for a float file that cannot be compiled. Quick: asked before any work,
        of the untrained network, where that is the user's or a target is.
        """
        del onnx  # unless a target says otherwise, it takes all that there are

    def check_integers(self, graph: IntegerGraph) -> None:
        """Raise UserError, naming the operator, for a graph that cannot be compiled. Quick: asked before any work."""
        del graph  # unless a target says otherwise, it takes all that there are

    def compile_integers(self, graph: IntegerGraph, metadata: DeliveryMetadata, folder: Path) -> None:
        """What `compile` does with a QDQ file, once that is lowered: to find the operator that goes wrong on a target,
        graphs that end earlier are compiled. Default: NotMeasured.
        """
        raise NotMeasured(f"target {self.name!r} compiles no integer graph by itself, so the operator is not known")

    def untunable(self) -> str | None:
        """Why no schedule can be measured here for this target, to be read behind its name; None if it can."""
        return "has nothing to be measured"

    def compile_tuned(
        self,
        onnx: bytes,
        metadata: DeliveryMetadata,
        folder: Path,
        settings: TuneSettings,
        records: Path,
        examples: np.ndarray | None = None,
    ) -> dict[str, float]:
        """What `compile` does, with schedules that were measured where they are clearly faster; figures of it.

        `records`: a folder in which what was measured is kept for the next time. Only where `untunable` says nothing.
        """
        raise NotImplementedError(f"{self.name} {self.untunable()}")

    @abstractmethod
    def run(self, folder: Path, inputs: np.ndarray) -> np.ndarray:
        """Outputs (N, *output_shape) of the delivered artefact for stored inputs (N, *input_shape).

        Raises NotMeasured, saying how to mend it, if this machine cannot execute the artefact.
        """

    def measured(self, folder: Path) -> dict[str, float]:
        """Figures of a delivery that one example shows here: milliseconds where this host is the device, instructions
        where an emulator counts them; nothing where neither can be had."""
        return {}

    def run_integers(self, graph: IntegerGraph, inputs: np.ndarray) -> np.ndarray:
        """int8 outputs (N, ...) of `graph`, compiled for this target, for int8 inputs (N, ...).

        Raises NotMeasured as `compile_integers` and `run` do.
        """
        with tempfile.TemporaryDirectory(prefix="pocketpipe-") as scratch:
            folder = Path(scratch) / "delivery"
            self.compile_integers(graph, _of_bytes(graph, self.name), folder)
            stored = (inputs.astype(np.int16) + BYTE).astype(np.uint8)
            return graph.integers(self.run(folder, stored))


BYTE = 128
"""A network's integer q is stored as the byte q + 128, as images are."""


def _of_bytes(graph: IntegerGraph, target: str) -> DeliveryMetadata:
    """Of a delivery whose stored examples are the network's integers, as bytes."""
    tensor = graph.tensors[graph.input]
    zero = (tensor.zero_point + BYTE) * tensor.scale
    return DeliveryMetadata(
        task="integers",
        network="part",
        target=target,
        input_shape=tensor.shape,
        input_dtype="uint8",
        preprocessing=Preprocessing(scale=tensor.scale, mean=(zero,)),
        labels=(),
    )


TARGETS: Door[Target] = Door("target", room="pocketpipe.targets")
