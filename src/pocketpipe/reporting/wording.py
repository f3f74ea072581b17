"""Figures and outcomes in words: shared by the page and the terminal, so that both say the same."""

from collections.abc import Sequence
from math import isfinite, sqrt
from statistics import stdev
from typing import Literal

from pocketpipe.evaluation import Evaluation, Subject
from pocketpipe.verdict import Verdict

Outcome = Literal["kept", "partly measured", "not kept"]

ABSENT = "–"


def outcome(evaluation: Evaluation) -> Outcome:
    """Whether the budget was kept, and whether that rests on everything that was asked."""
    if not evaluation.budget_kept:
        return "not kept"
    return "partly measured" if any(v.status == "not measured" for v in evaluation.verdicts) else "kept"


def headline(evaluation: Evaluation) -> str:
    """The outcome in one sentence, with its figures."""
    got = _achievement(evaluation)
    failed = [verdict for verdict in evaluation.verdicts if verdict.status == "failed"]
    if failed:
        return f"Budget not kept: {_misses(failed)}. The network as delivered: {got}."
    unmeasured = [verdict for verdict in evaluation.verdicts if verdict.status == "not measured"]
    if unmeasured:
        files = ", ".join(dict.fromkeys(verdict.file for verdict in unmeasured))
        return f"Budget kept as far as it was measured: {got}. Not measured here: {files}."
    return f"Budget kept: {got}."


def teacher(evaluation: Evaluation) -> Subject | None:
    """The dense network, where it was evaluated."""
    return next((subject for subject in evaluation.subjects if subject.name == "teacher"), None)


def metric_text(value: float | None) -> str:
    """A metric in the form in which a budget is written.

    >>> metric_text(0.975), metric_text(123.456), metric_text(3.21e-5), metric_text(None)
    ('0.9750', '123.5', '3.21e-05', '–')
    """
    return ABSENT if value is None else f"{value:{_digits(value)}}"


def difference_text(value: float) -> str:
    """A difference of two metrics, with its sign.

    >>> difference_text(-0.0056), difference_text(12.5)
    ('-0.0056', '+12.5')
    """
    return f"{value:+{_digits(value)}}"


def _digits(value: float) -> str:
    if 0 < abs(value) < 1e-3:
        return ".3g"  # an error in a small unit; four decimals would be zeros
    return ".4g" if abs(value) >= 10 else ".4f"


def share_text(value: float | None) -> str:
    """A share of examples in per cent.

    >>> share_text(0.9972)
    '99.72 %'
    """
    return ABSENT if value is None else f"{100 * value:.2f} %"


def count_text(value: float) -> str:
    """A count with three significant digits and its magnitude.

    >>> [count_text(n) for n in (950, 12_500, 999_700, 40_813_184, 2_000_000_000)]
    ['950', '12.5 k', '1 M', '40.8 M', '2 G']
    """
    return _with_magnitude(value, (" G", " M", " k")) or f"{value:.0f}"


def bytes_text(value: int | None) -> str:
    """A size in decimal units.

    >>> bytes_text(314_159), bytes_text(None)
    ('314 kB', '–')
    """
    if value is None:
        return ABSENT
    return _with_magnitude(value, (" GB", " MB", " kB")) or f"{value} B"


def milliseconds_text(value: float) -> str:
    """A time.

    >>> milliseconds_text(0.01234), milliseconds_text(1234.5)
    ('0.0123 ms', '1,234 ms')
    """
    return f"{value:.3g} ms" if value < 999.5 else f"{value:,.0f} ms"


def _with_magnitude(value: float, units: Sequence[str]) -> str:
    """Three significant digits in the largest of the units (10^9, 10^6, 10^3) that gives 1 or more; else empty."""
    for factor, unit in zip((1e9, 1e6, 1e3), units, strict=True):
        if value >= 0.9995 * factor:
            return f"{value / factor:.3g}{unit}"
    return ""


def standard_error(scores: Sequence[float]) -> float | None:
    """Standard error of the mean of `scores`; None for fewer than two, and where one is no number.

    >>> round(standard_error([1.0] * 97 + [0.0] * 3), 4)
    0.0171
    """
    known = len(scores) > 1 and all(map(isfinite, scores))
    return stdev(scores) / sqrt(len(scores)) if known else None


def _achievement(evaluation: Evaluation) -> str:
    ratio = evaluation.teacher_cost.ratio_to(evaluation.student_cost)
    parts = [f"{ratio['speedup']:.2f}x fewer MACs", f"a {ratio['compression']:.2f}x smaller file"]
    metric, dense = evaluation.delivered_metric, teacher(evaluation)
    if metric is not None:
        beside = f" (teacher {metric_text(dense.metric)})" if dense and dense.metric is not None else ""
        parts.append(f"{evaluation.metric_name} {metric_text(metric)}{beside}")
    return ", ".join(parts)


def _misses(failed: list[Verdict]) -> str:
    """Each requirement that failed once, with the first file it failed on and how many more."""
    by_requirement: dict[str, list[Verdict]] = {}
    for verdict in failed:
        by_requirement.setdefault(verdict.requirement, []).append(verdict)
    lines = []
    for requirement, (first, *others) in by_requirement.items():
        more = f" and {len(others)} more" if others else ""
        lines.append(f"{requirement}: asked {first.asked}, got {first.got} on {first.file}{more}")
    return "; ".join(lines)
