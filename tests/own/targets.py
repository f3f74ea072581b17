"""A user's own target."""

from pathlib import Path

import numpy as np

from pocketpipe.delivery.metadata import DeliveryMetadata
from pocketpipe.errors import UserError
from pocketpipe.targets.base import Target


class Unreachable(Target):
    """A target for which there is no compiler on any machine."""

    name = "unreachable"

    def check(self) -> None:
        raise UserError("no compiler for unreachable devices; there is none to get")

    def compile(
        self, onnx: bytes, metadata: DeliveryMetadata, folder: Path, examples: np.ndarray | None = None
    ) -> None:
        raise AssertionError("check() comes first")

    def run(self, folder: Path, inputs: np.ndarray) -> np.ndarray:
        raise AssertionError("check() comes first")


unreachable = Unreachable()
