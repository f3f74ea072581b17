"""Figures and outcomes in words: shared by the page and the terminal, so that both say the same."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, sqrt
from statistics import stdev
from typing import TYPE_CHECKING, Literal

from pocketpipe.budget import KB, Budget
from pocketpipe.evaluation import Evaluation, Subject
from pocketpipe.reporting.numbers import ABSENT, metric_text
from pocketpipe.verdict import Verdict

if TYPE_CHECKING:
    from pocketpipe.search.trial import Trial

Outcome = Literal["kept", "partly measured", "not kept"]


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


def told_apart(value: float, limit: float, usual: str) -> str:
    """`usual`, a text of `value`, where it lies on the same side of `limit`; else with the digits that this takes.

    >>> told_apart(2.5049, 2.505, "2.505"), told_apart(0.010004, 0.01, "+0.0100"), told_apart(2.4, 2.5, "2.400")
    ('2.5049', '+0.010004', '2.400')
    """
    sign = "+" if usual.startswith("+") else ""
    longer = (f"{value:{sign}.{digits}g}" for digits in range(3, 18))
    texts = (usual, *(text for text in longer if len(text) > len(usual) and ("e" in usual or "e" not in text)))
    return next((text for text in texts if (float(text) - limit) * (value - limit) > 0), usual)


def asked_text(value: float, usual: str) -> str:
    """`usual`, a text of `value`, where it says all of it; else `value` as a configuration has it.

    >>> asked_text(2.5, "2.50"), asked_text(2.505, "2.50")
    ('2.50', '2.505')
    """
    return usual if float(usual) == value else repr(value)


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


def nearest_text(trial: Trial | None, dense_score: float, budget: Budget, metric_name: str) -> str:
    """The nearest plan that passes, in the terms of the budget; None: there is none."""
    if trial is None:
        return (
            "no plan that was tried keeps the accuracy asked. Plans of relaxed budgets are judged before any "
            "fine-tuning, after which they may: relax the budget a little, train longer, or give the search more trials"
        )
    when = "before fine-tuning" if trial.tuned_score is None else "after a short fine-tuning"
    return (
        f"trial {trial.index} ({trial.origin}): {trial.speedup:.2f}x fewer MACs, "
        f"{trial.compression:.2f}x smaller file, {_on_a_device(trial, budget)}"
        f"{metric_name} {metric_text(trial.last_score)} on the selection split {when} "
        f"(teacher {metric_text(dense_score)})"
    )


def _on_a_device(trial: Trial, budget: Budget) -> str:
    """What the plan is predicted to take there, where the budget asks."""
    taken = {"flash": (budget.flash_kb, trial.cost.flash_bytes), "RAM": (budget.ram_kb, trial.cost.peak_ram_bytes)}
    return "".join(
        f"{size / KB:.1f} kB of {name}, " for name, (asked, size) in taken.items() if asked and size is not None
    )


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
