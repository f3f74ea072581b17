"""Delivered integers beside the reference: no value may differ, or the run ends by naming the operator that does."""

from dataclasses import dataclass

import numpy as np

from pocketpipe.errors import NotMeasured, UserError
from pocketpipe.integer import reference
from pocketpipe.integer.comparing import EXAMPLES, first_difference
from pocketpipe.integer.graph import IntegerGraph
from pocketpipe.integer.lowering import is_quantized, lower
from pocketpipe.targets.base import Target


@dataclass(frozen=True)
class Expected:
    """What the reference computes of the first test examples."""

    graph: IntegerGraph
    entering: np.ndarray
    """int8 (N, *shape of the input)."""
    leaving: np.ndarray
    """int8 (N, *shape of the output)."""

    def whole(self, examples: int) -> bool:
        """Whether it saw all examples of a split of so many."""
        return len(self.leaving) == examples

    @property
    def outputs(self) -> np.ndarray:
        """The real numbers that they stand for: what every target gives."""
        return self.graph.real(self.leaving)


def expected_of(onnx: bytes, prepared: np.ndarray, macs: int, most_macs: int) -> Expected | None:
    """The reference's integers on as many `prepared` examples as `most_macs` allow; None for a network in float.

    `macs`: of one example.
    """
    if not is_quantized(onnx):
        return None
    graph = lower(onnx)
    entering = graph.quantized(prepared[: max(1, most_macs // max(1, macs))])
    return Expected(graph, entering, reference.run(graph, entering))


def refuse_differing(expected: Expected, target: Target, file: str, outputs: np.ndarray) -> None:
    """Raise UserError if an integer in `outputs`, of the delivered `file`, is not the reference's: one line that names
    the first operator that differs, with its integers.
    """
    right = expected.leaving[: len(outputs)]
    wrong = expected.graph.integers(outputs[: len(right)]) != right
    if wrong.any():
        (examples,) = np.nonzero(wrong.reshape(len(right), -1).any(1))
        raise UserError(
            f"{file}: {wrong.sum():,} of {wrong.size:,} integers are not the reference's, on {len(examples):,} of "
            f"{len(right):,} test examples; {_where(expected, target, examples[:EXAMPLES])}"
        )


def _where(expected: Expected, target: Target, examples: np.ndarray) -> str:
    """The first operator that differs on test examples of these numbers, in words."""
    try:
        difference = first_difference(expected.graph, target.run_integers, expected.entering[examples])
    except NotMeasured as reason:
        return str(reason)
    if difference is None:
        return (
            "every operator is right by itself, on one thread and by the schedules of rule: what is not is "
            "preprocessing, the way into the network or out of it, threads, or schedules that were measured"
        )
    return difference.model_copy(update={"example": int(examples[difference.example])}).message
