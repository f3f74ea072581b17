"""Figures of the search: all trials, the way to the winner, and the controls beside it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from pocketpipe.reporting.drawing import (
    AFTER,
    BUDGET,
    INK,
    MUTED,
    ORIGINS,
    PAPER,
    TEACHER,
    WINNER,
    canvas,
    count_along,
    name_rows,
    svg,
)
from pocketpipe.reporting.findings import Findings
from pocketpipe.search.trial import Origin, Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COMPARED: tuple[Origin, ...] = ("uniform", "informed", "random")
"""Plans that need no search."""
MARKERS: dict[Origin, str] = {
    "tuner": "o",
    "uniform": "s",
    "informed": "D",
    "champion": "P",
    "random": "^",
    "ladder": "v",
}


@dataclass(frozen=True)
class Term:
    """One bounded term of a budget: which ratio of a trial it bounds, and how much was asked."""

    name: str
    label: str
    ratio: Callable[[Trial], float]
    asked: float


def budget_terms(findings: Findings) -> list[Term]:
    """The terms of the budget that bound a trial's cost, as times smaller than the dense network."""
    dense, limits = findings.evaluation.teacher_cost, findings.limits
    terms = []
    if limits.macs is not None:
        terms.append(Term("speedup", "times fewer MACs", lambda trial: trial.speedup, dense.macs / limits.macs))
    if limits.file_bytes is not None:
        asked = dense.file_bytes / limits.file_bytes
        terms.append(Term("compression", "times smaller file", lambda trial: trial.compression, asked))
    predicted = findings.dense_profile.cost()
    for name, label in (
        ("flash_bytes", "times less flash, predicted"),
        ("peak_ram_bytes", "times less RAM, predicted"),
    ):
        limit, before = getattr(limits, name), getattr(predicted, name)
        if limit is not None and before is not None:
            terms.append(Term(name.removesuffix("_bytes"), label, partial(_times_less, name, before), before / limit))
    return terms


def _times_less(name: str, before: int, trial: Trial) -> float:
    """How many times less than `before` a trial takes; both are predicted from profiles that know it, or none does."""
    return float(before / getattr(trial.cost, name))


def front(findings: Findings, term: Term) -> str:
    """All trials, metric over `term`: markers by origin, the best of them joined, the teacher, the budget."""
    with canvas(3.9) as (figure, (axes,)):
        best = pareto([(term.ratio(trial), trial.score) for trial in findings.trials], findings.higher_is_better)
        axes.step(*zip(*best, strict=True), where="pre", color=MUTED, linewidth=1, zorder=1, label="best of all trials")
        _trials(axes, findings, term.ratio)
        if findings.dense_score is not None:
            axes.scatter([1.0], [findings.dense_score], marker="*", s=110, color=TEACHER, label="teacher, dense")
        axes.axvline(term.asked, color=BUDGET, linewidth=1.2, linestyle="--", label=f"budget, {term.asked:.2f}x")
        axes.set(xlabel=term.label, ylabel=f"{findings.evaluation.metric_name}, before fine-tuning")
        figure.legend(loc="outside lower center", ncols=3)
        return svg(figure, f"front-{term.name}")


def pareto(points: list[tuple[float, float]], higher_is_better: bool) -> list[tuple[float, float]]:
    """The points that no other point beats in both smallness and score, by growing smallness.

    >>> pareto([(2.0, 0.9), (3.0, 0.8), (2.5, 0.7)], higher_is_better=True)
    [(2.0, 0.9), (3.0, 0.8)]
    """
    sign = 1 if higher_is_better else -1
    kept: list[tuple[float, float]] = []
    for ratio, score in sorted(set(points), key=lambda point: (-point[0], -sign * point[1])):
        if not kept or sign * score > sign * kept[-1][1]:
            kept.append((ratio, score))
    return kept[::-1]


def search_history(findings: Findings) -> str:
    """Score of each trial in the order tried, and the best that the tuner had by then."""
    with canvas(3.9) as (figure, (axes,)):
        _trials(axes, findings, lambda trial: trial.index)
        proposed = [trial for trial in findings.trials if trial.origin == "tuner"]
        if proposed:
            better = max if findings.higher_is_better else min
            best = [better(trial.score for trial in proposed[: count + 1]) for count in range(len(proposed))]
            axes.step([t.index for t in proposed], best, where="post", color=AFTER, linewidth=1, label="tuner's best")
        if findings.dense_score is not None:
            axes.axhline(findings.dense_score, color=TEACHER, linewidth=1.2, linestyle="--", label="teacher, dense")
        count_along(axes)
        axes.set(xlabel="trial", ylabel=f"{findings.evaluation.metric_name}, before fine-tuning")
        figure.legend(loc="outside lower center", ncols=3)
        return svg(figure, "search")


def compared_trials(findings: Findings) -> list[Trial]:
    """The winner, every control, and whatever else got the short fine-tuning; best first within each."""
    sign = -1 if findings.higher_is_better else 1

    def rank(trial: Trial) -> tuple[bool, bool, float]:
        return trial is not findings.winner, trial.origin in COMPARED, sign * trial.last_score

    wanted = [
        trial
        for trial in findings.trials
        if trial is findings.winner or trial.origin in COMPARED or trial.tuned_score is not None
    ]
    return sorted(wanted, key=rank)


def controls(findings: Findings) -> str:
    """Winner beside plans of equal budget that need no search: hollow before fine-tuning, filled after."""
    trials = compared_trials(findings)
    with canvas(1.3 + 0.24 * len(trials)) as (figure, (axes,)):
        for row, trial in enumerate(trials):
            colour = WINNER if trial is findings.winner else ORIGINS[trial.origin]
            axes.plot([trial.score], [row], "o", markerfacecolor=PAPER, markeredgecolor=colour, zorder=3)
            if trial.tuned_score is not None:
                axes.plot([trial.score, trial.tuned_score], [row, row], color=colour, linewidth=1, zorder=2)
                axes.plot([trial.tuned_score], [row], "o", color=colour, zorder=3)
        axes.plot([], [], "o", markerfacecolor=PAPER, markeredgecolor=INK, label="before fine-tuning")
        if any(trial.tuned_score is not None for trial in trials):
            axes.plot([], [], "o", color=INK, label="after the short one")
        if findings.dense_score is not None:
            axes.axvline(findings.dense_score, color=TEACHER, linewidth=1.2, linestyle="--", label="teacher, dense")
        name_rows(axes, [_trial_name(findings, trial) for trial in trials])
        axes.set_xlabel(findings.evaluation.metric_name)
        figure.legend(loc="outside lower center", ncols=3)
        return svg(figure, "controls")


def _trials(axes: "Axes", findings: Findings, along: Callable[[Trial], float]) -> None:
    """A mark for each trial by its origin, `along` to the right and the score upwards; a ring around the winner."""
    for origin, marker in MARKERS.items():
        found = [trial for trial in findings.trials if trial.origin == origin]
        if found:
            points, colour = ([along(trial) for trial in found], [trial.score for trial in found]), ORIGINS[origin]
            axes.scatter(*points, marker=marker, s=32, color=colour, edgecolors=PAPER, linewidths=0.5, label=origin)
    if findings.winner:
        place = [along(findings.winner)], [findings.winner.score]
        axes.scatter(*place, s=110, facecolors="none", edgecolors=WINNER, linewidths=1.8, zorder=4, label="winner")


def _trial_name(findings: Findings, trial: Trial) -> str:
    kind = "winner" if trial is findings.winner else trial.origin
    return f"{kind}, trial {trial.index}"
