"""Budget: what the user asked for. Nothing else decides success."""

from typing import Annotated

from pydantic import Field, model_validator

from pocketpipe.cost import Cost
from pocketpipe.doors import Value

KB = 1024
"""Bytes of a kB of flash or RAM."""

ByTarget = dict[str, Annotated[float, Field(gt=0.0)]]

Ratio = Annotated[float, Field(ge=1.0, description="how many times smaller; 1 = unchanged")]


class Limits(Value):
    """A budget for one dense network in absolute terms; None = not limited."""

    macs: int | None = None
    file_bytes: int | None = None

    def keeps(self, cost: Cost) -> bool:
        """Whether `cost` is within every limit."""
        return all(used <= limit for used, limit in self._pairs(cost))

    def usage(self, cost: Cost) -> float:
        """Used share of the binding constraint: the largest used/limit (1.0 = exactly on the budget)."""
        return max(used / limit for used, limit in self._pairs(cost))

    def _pairs(self, cost: Cost) -> list[tuple[int, int]]:
        pairs = ((cost.macs, self.macs), (cost.file_bytes, self.file_bytes))
        return [(used, limit) for used, limit in pairs if limit is not None]


class Budget(Value):
    """Relative terms are against the teacher; absolute ones stand alone. At least one must bound the cost.

    >>> budget = Budget(speedup=2.5, accuracy_drop=0.01)
    >>> budget.limits(Cost(macs=1000, parameters=1, file_bytes=400)).macs
    400
    >>> Budget(accuracy_drop=0.01)
    Traceback (most recent call last):
    pydantic_core._pydantic_core.ValidationError: 1 validation error for Budget
    ...
    """

    speedup: Ratio | None = None
    """Times fewer MACs."""
    compression: Ratio | None = None
    """Times fewer bytes in transport: of the ONNX file or its packed form, whichever is smaller, on both sides."""
    accuracy_drop: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    """Loss of the task's metric against the teacher, both on test (0.01 = one point)."""
    macs: Annotated[int, Field(gt=0)] | None = None
    """At most this many MACs an example."""
    file_bytes: Annotated[int, Field(gt=0)] | None = None
    """At most this many bytes in transport."""
    minimum_metric: float | None = None
    """The task's metric on test must be at least this."""
    flash_kb: ByTarget = {}
    """For each target the memory that code and weights may take, in kB of 1,024 bytes, as data sheets count them."""
    ram_kb: ByTarget = {}
    """For each target the memory that one inference may take, in the same kB."""
    latency_ms: ByTarget = {}
    """For each target the median time of one example, batch 1, one thread; measured where the target is this host."""

    @model_validator(mode="after")
    def _bounds_the_cost(self) -> "Budget":
        if not any((self.speedup, self.compression, self.macs, self.file_bytes)):
            raise ValueError(
                "nothing bounds the cost: give at least one of speedup, compression, macs, file_bytes "
                "(the search keeps a cost and maximizes the metric; "
                "it cannot yet shrink a network under accuracy_drop alone)"
            )
        return self

    def limits(self, dense: Cost) -> Limits:
        """Relative and absolute terms together as limits for the compressed form of `dense`."""
        return Limits(
            macs=_tightest(self.macs, dense.macs, self.speedup),
            file_bytes=_tightest(self.file_bytes, dense.file_bytes, self.compression),
        )


def _tightest(absolute: int | None, dense: int, ratio: float | None) -> int | None:
    relative = None if ratio is None else int(dense / ratio)
    bounds = [bound for bound in (absolute, relative) if bound is not None]
    return min(bounds) if bounds else None
