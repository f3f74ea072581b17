"""Cpu: what code generation must know about a processor."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pocketpipe.targets.lowering.integers.units import VectorUnit


@dataclass(frozen=True)
class Cpu:
    """A processor in LLVM's words, and how large the tiles are that its registers hold."""

    triple: str
    model: str
    attributes: tuple[str, ...]
    lanes: int
    """float32 numbers in one vector register."""
    accumulators: int
    """Vector registers that a tile of outputs may take; the rest hold weights and inputs."""
    unit: VectorUnit
    """How its vectors sum products of integers."""

    @property
    def inputs_together(self) -> int:
        """float32 inputs that are loaded together: a register full where one element of it can be multiplied by."""
        return self.lanes if self.unit.chunk > 1 else 1

    def __str__(self) -> str:
        return " ".join((self.triple.split("-", 1)[0], self.model, *self.attributes))

    @cached_property
    def target(self) -> Any:
        """The same as a TVM target."""
        from tvm.target import Target

        description = {"kind": "llvm", "mtriple": self.triple, "mcpu": self.model, "mattr": list(self.attributes)}
        target = Target({key: value for key, value in description.items() if value})
        return target.with_host(target)
