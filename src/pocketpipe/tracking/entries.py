"""Our values as MLflow's entries: keys that it takes, values within its limits, batches of a size that it takes."""

import json
import posixpath
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from pocketpipe.record import StageRecord

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

T = TypeVar("T")

LONGEST_KEY = 250
LONGEST_PARAMETER = 6_000
LONGEST_TAG = 8_000
METRICS_AT_ONCE = 1_000
OTHERS_AT_ONCE = 100


def key(name: str) -> str:
    """`name` as MLflow takes it for a parameter, metric or tag.

    >>> key("latency (x86_64) <= 2"), key("a//b")
    ('latency _x86_64_ __ 2', 'a__b')
    """
    allowed = re.sub(r"[^\w\-. :/]", "_", name)[:LONGEST_KEY]
    return allowed if posixpath.normpath(allowed) == allowed and allowed[:1] not in "/." else allowed.replace("/", "_")


def text(value: Any, longest: int = LONGEST_TAG) -> str:
    """`value` as text; what is longer than `longest` ends in how long it was.

    >>> text("plain"), text(None), text([1, "a"]), text(True)
    ('plain', 'null', '[1, "a"]', 'true')
    >>> text("x" * 100, longest=40)
    'xxxxxxxxxxxxxxxx... (100 characters)'
    """
    full = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    if len(full) <= longest:
        return full
    tail = f"... ({len(full)} characters)"
    return full[: max(0, longest - len(tail) - 4)] + tail


def flatten(parameters: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested parameters under dotted keys.

    >>> flatten({"task": {"name": "digits", "options": {}}, "targets": ["x86_64"]})
    {'task.name': 'digits', 'task.options': '{}', 'targets': '["x86_64"]'}
    """
    flat: dict[str, str] = {}
    for name, value in parameters.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[key(f"{prefix}{name}")] = text(value, LONGEST_PARAMETER)
    return flat


def metrics_of(record: StageRecord) -> "list[Metric]":
    """Final figures and curves; steps count from 1. MLflow shows the figure with the highest step, so that a final
    figure with the name of a curve comes after its last point, unless it is that point."""
    entries = [point for name, values in record.curves.items() for point in curve(name, values)]
    for name, value in record.metrics.items():
        values = record.curves.get(name, ())
        if not values or values[-1] != value:
            entries.append(metric(name, value, step=len(values) + 1 if values else 0))
    return entries


def curve(name: str, values: Sequence[float]) -> "list[Metric]":
    """Figures by step, from step 1."""
    return [metric(name, value, step) for step, value in enumerate(values, start=1)]


def metric(name: str, value: float, step: int = 0) -> "Metric":
    """One figure, now."""
    from mlflow.entities import Metric

    return Metric(key(name), float(value), int(time.time() * 1000), step)


def log(
    client: "MlflowClient",
    run_id: str,
    *,
    metrics: "Sequence[Metric]" = (),
    parameters: Mapping[str, str] | None = None,
    tags: Mapping[str, Any] | None = None,
) -> None:
    """Log everything in as few requests as MLflow allows."""
    from mlflow.entities import Param, RunTag

    tag_entries = [RunTag(key(name), text(value)) for name, value in (tags or {}).items()]
    parameter_entries = [Param(name, value) for name, value in (parameters or {}).items()]
    if len(metrics) + len(tag_entries) + len(parameter_entries) <= OTHERS_AT_ONCE:
        if metrics or tag_entries or parameter_entries:
            client.log_batch(run_id, metrics, parameter_entries, tag_entries)
        return
    for metric_part in _parts(metrics, METRICS_AT_ONCE):
        client.log_batch(run_id, metrics=metric_part)
    for parameter_part in _parts(parameter_entries, OTHERS_AT_ONCE):
        client.log_batch(run_id, params=parameter_part)
    for tag_part in _parts(tag_entries, OTHERS_AT_ONCE):
        client.log_batch(run_id, tags=tag_part)


def _parts(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
