"""Budget: what the user asked for. Nothing else decides success."""

from collections.abc import Callable, Mapping
from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from pocketpipe.cost import Cost
from pocketpipe.doors import Value

KB = 1024
"""Bytes of a kB of flash or RAM."""

ByTarget = dict[str, Annotated[float, Field(gt=0.0)]]

WORDS = {"macs": "MACs", "file_bytes": "bytes", "flash_bytes": "bytes of flash", "peak_ram_bytes": "bytes of RAM"}
"""What each limit counts."""

Ratio = Annotated[float, Field(ge=1.0, description="how many times smaller; 1 = unchanged")]


class Limits(Value):
    """A budget for one dense network in absolute terms; None = not limited. Its fields are those of a predicted Cost.

    >>> limits = Limits(macs=400, peak_ram_bytes=2048)
    >>> limits.over(Cost(macs=450, parameters=1, file_bytes=1, peak_ram_bytes=2048))
    '450 MACs are over the limit of 400'
    """

    macs: int | None = None
    file_bytes: int | None = None
    flash_bytes: int | None = None
    peak_ram_bytes: int | None = None

    def given(self) -> dict[str, int]:
        """The limits that there are, by the cost that they bound."""
        return {name: limit for name, limit in self if limit is not None}

    def only(self, *names: str) -> "Limits":
        """These limits without all others."""
        return Limits.model_validate({name: limit for name, limit in self.given().items() if name in names})

    def keeps(self, cost: Cost) -> bool:
        """Whether `cost` is within every limit."""
        return all(used <= limit for _, used, limit in self._held_against(cost))

    def usage(self, cost: Cost) -> float:
        """Used share of the binding constraint: the largest used/limit (1.0 = exactly on it); 0 if none is known."""
        return max((used / limit for _, used, limit in self._held_against(cost)), default=0.0)

    def over(self, cost: Cost) -> str:
        """What `cost` exceeds, in words."""
        exceeded = ((name, used, limit) for name, used, limit in self._held_against(cost) if used > limit)
        return " and ".join(f"{used:,} {WORDS[name]} are over the limit of {limit:,}" for name, used, limit in exceeded)

    def _held_against(self, cost: Cost) -> list[tuple[str, int, int]]:
        """(name, used, limit); a cost that is not known is held against nothing."""
        used = {name: getattr(cost, name) for name in self.given()}
        return [(name, used[name], limit) for name, limit in self.given().items() if used[name] is not None]


ROUNDING = 1e-9
"""How far a difference of two metrics may be off for being computed: 0.91 - 0.90 is a little more than 0.01."""


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

    judged: ClassVar[frozenset[str]] = frozenset({"accuracy_drop", "minimum_metric", "latency_ms"})
    """Terms that what was made is held against: no plan that is searched depends on them."""

    speedup: Ratio | None = None
    """Times fewer MACs."""
    compression: Ratio | None = None
    """Times fewer bytes in transport: of the ONNX file or its packed form, whichever is smaller, on both sides."""
    accuracy_drop: Annotated[float, Field(ge=0.0)] | None = None
    """Loss of the task's metric against the teacher, both on test, in its unit (of accuracy 0.01 = one point)."""
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
    """For each target the median time of one example, batch 1, on `compile.threads` threads; measured where the target
    is this host."""

    def allows_drop(self, drop: float) -> bool:
        """Whether a loss of the task's metric, the worse the larger, is within `accuracy_drop`; NaN is not.

        >>> Budget(speedup=2, accuracy_drop=0.01).allows_drop(0.91 - 0.90)
        True
        """
        return self.accuracy_drop is None or drop <= self.accuracy_drop + ROUNDING

    def allows_metric(self, metric: float, dense: float, *, higher_is_better: bool) -> bool:
        """Whether `metric` is good enough where the teacher's is `dense`, on the same data."""
        sign = 1.0 if higher_is_better else -1.0
        drop = sign * (dense - metric)
        return self.allows_value(metric, higher_is_better=higher_is_better) and self.allows_drop(drop)

    def allows_value(self, metric: float, *, higher_is_better: bool) -> bool:
        """Whether `metric` reaches `minimum_metric`; NaN does not.

        >>> Budget(speedup=2, minimum_metric=0.1).allows_value(0.3 / 3 + 2e-17, higher_is_better=False)
        True
        """
        sign = 1.0 if higher_is_better else -1.0
        return self.minimum_metric is None or sign * metric >= sign * self.minimum_metric - ROUNDING

    @model_validator(mode="after")
    def _bounds_the_cost(self) -> "Budget":
        if not any((self.speedup, self.compression, self.macs, self.file_bytes, self.flash_kb, self.ram_kb)):
            raise ValueError(
                "nothing bounds the cost: give at least one of speedup, compression, macs, file_bytes, flash_kb, "
                "ram_kb (the search keeps a cost and maximizes the metric; "
                "it cannot yet shrink a network under accuracy_drop or latency_ms alone)"
            )
        return self

    def limits(self, dense: Cost) -> Limits:
        """Relative and absolute terms together as limits for the compressed form of `dense`.

        One network goes to all targets, so the tightest flash and RAM of them count.
        """
        return Limits(
            macs=_tightest(self.macs, dense.macs, self.speedup),
            file_bytes=_tightest(self.file_bytes, dense.file_bytes, self.compression),
            flash_bytes=_bytes(self.flash_kb),
            peak_ram_bytes=_bytes(self.ram_kb),
        )

    def by_target(self) -> dict[str, dict[str, float]]:
        """The terms that name targets: `{"ram_kb": {"cortex_m": 32.0}}`."""
        terms = {"flash_kb": self.flash_kb, "ram_kb": self.ram_kb, "latency_ms": self.latency_ms}
        return {name: term for name, term in terms.items() if term}


def _bytes(by_target: Mapping[str, float]) -> int | None:
    return int(min(by_target.values()) * KB) if by_target else None


def _tightest(absolute: int | None, dense: int, ratio: float | None) -> int | None:
    relative = None if ratio is None else int(dense / ratio)
    bounds = [bound for bound in (absolute, relative) if bound is not None]
    return min(bounds) if bounds else None


BISECTIONS = 40
"""Halvings of an interval: 40 leave 1e-12 of it."""


def farthest(keeps: Callable[[float], bool], start: float, end: float) -> float:
    """The point nearest to `end` that `keeps`, on the way there from `start`, which is taken to; by bisection.

    >>> farthest(lambda share: share * share <= 0.25, 0.0, 1.0)
    0.5
    """
    if keeps(end):
        return end
    for _ in range(BISECTIONS):
        middle = (start + end) / 2
        start, end = (middle, end) if keeps(middle) else (start, middle)
    return start
