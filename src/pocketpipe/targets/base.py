"""Target: a kind of machine that a network is compiled for; the door through which targets become known."""

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np

from pocketpipe.delivery.loader import LIBRARY_FILE
from pocketpipe.delivery.metadata import DeliveryMetadata
from pocketpipe.doors import Door


class Target(ABC):
    """Turns an ONNX file into a delivery folder, and runs what it delivered."""

    name: str
    library_name: str = LIBRARY_FILE
    """The delivered file on which figures are measured."""
    emulated: bool = False
    """Whether `run` goes through an emulator: right, but hundreds of times slower than the device."""

    @abstractmethod
    def check(self) -> None:
        """Raise UserError if nothing here can compile for the target. Quick: asked before any work."""

    @abstractmethod
    def compile(self, onnx: bytes, metadata: DeliveryMetadata, folder: Path) -> None:
        """Write the whole delivery folder, which appears complete or not at all.

        `onnx`: float32, batch 1, one input and one output. Raises UserError for an operator that cannot be compiled.
        """

    @abstractmethod
    def run(self, folder: Path, inputs: np.ndarray) -> np.ndarray:
        """Outputs (N, *output_shape) of the delivered artefact for stored inputs (N, *input_shape).

        Raises NotMeasured, saying how to mend it, if this machine cannot execute the artefact.
        """


TARGETS: Door[Target] = Door("target", room="pocketpipe.targets")
