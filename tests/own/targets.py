"""A user's own targets."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from onnx import load_from_string

from pocketpipe.delivery.metadata import DeliveryMetadata
from pocketpipe.errors import UserError
from pocketpipe.exporting.executing import run_onnx
from pocketpipe.integer.graph import Convolution, IntegerGraph, Operator
from pocketpipe.integer.lowering import lower
from pocketpipe.storage import appearing_whole
from pocketpipe.targets.base import Target
from pocketpipe.targets.x86_64 import X8664


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


class Careless(X8664):
    """This machine, on which convolutions round halves and some more down: every graph is compiled wrongly."""

    name = "careless"

    def compile(
        self, onnx: bytes, metadata: DeliveryMetadata, folder: Path, examples: np.ndarray | None = None
    ) -> None:
        self.compile_integers(lower(onnx), metadata, folder)

    def compile_integers(self, graph: IntegerGraph, metadata: DeliveryMetadata, folder: Path) -> None:
        operators = tuple(map(_rounded_down, graph.operators))
        super().compile_integers(replace(graph, operators=operators), metadata, folder)


def _rounded_down(operator: Operator) -> Operator:
    """Half a unit is taken from what is rounded: the bias is in units of the sum."""
    if not isinstance(operator, Convolution):
        return operator
    factor = operator.requantization
    half = (2.0**factor.shift / factor.multiplier / 2).astype(np.int32)
    return replace(operator, bias=operator.bias - half)


careless = Careless()


class Interpreter(Target):
    """A board that runs ONNX Runtime: it takes quantized files as they are."""

    name = "interpreter"
    library_name = "model.onnx"
    takes_recurrent = True

    def check(self) -> None:
        pass

    def compile(
        self, onnx: bytes, metadata: DeliveryMetadata, folder: Path, examples: np.ndarray | None = None
    ) -> None:
        with appearing_whole(folder) as delivery:
            (delivery / self.library_name).write_bytes(onnx)
            metadata.write(delivery)

    def run(self, folder: Path, inputs: np.ndarray) -> np.ndarray:
        preprocessing = DeliveryMetadata.read(folder).preprocessing
        return run_onnx((folder / self.library_name).read_bytes(), preprocessing(inputs))


interpreter = Interpreter()


class Pocket(Interpreter):
    """A board whose ONNX Runtime was built without additions."""

    name = "pocket"
    takes_recurrent = False

    def check_floats(self, onnx: bytes) -> None:
        if any(node.op_type == "Add" for node in load_from_string(onnx).graph.node):
            raise UserError("pocket cannot add")


pocket = Pocket()
