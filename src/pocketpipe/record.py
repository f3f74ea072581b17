"""StageRecord: what a stage tells about its work, for MLflow, the report and the terminal alike."""

from collections.abc import Iterable
from typing import Any

from pocketpipe.doors import Value


class StageRecord(Value):
    """Figures of one stage. `data` says on which file, split and seed they were measured.

    >>> StageRecord(stage="teacher", metrics={"val_accuracy": 0.98}, data="val (360 digits, seed 0)").metrics
    {'val_accuracy': 0.98}
    """

    stage: str
    headline: str = ""
    """What a person at the terminal wants to know first; empty: the first figures."""
    metrics: dict[str, float] = {}
    """Final figures."""
    curves: dict[str, tuple[float, ...]] = {}
    """Figures by step (epoch, trial ...), first step first."""
    facts: dict[str, Any] = {}
    """What is worth a tag: digests, counts, choices made."""
    warnings: tuple[str, ...] = ()
    """What the user must be told, a line each: shown in the terminal, MLflow and the report."""
    data: str = ""
    curves_of: str = ""
    """The same for the curves, where it is other data."""


def warnings_of(records: Iterable[StageRecord]) -> tuple[str, ...]:
    """All warnings, each once, in the order of the records."""
    return tuple(dict.fromkeys(line for record in records for line in record.warnings))
