"""The report's figures as SVG documents: on their own good for MLflow, and inlined into the page."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pocketpipe.reporting.drawing import (
    AFTER,
    BEFORE,
    BUDGET,
    INK,
    MUTED,
    ORIGINS,
    PAPER,
    SERIES,
    TEACHER,
    WINNER,
    canvas,
    shorten,
    svg,
)
from pocketpipe.reporting.findings import Findings
from pocketpipe.reporting.wording import count_text
from pocketpipe.search.trial import Origin, Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS: dict[Origin, str] = {"tuner": "o", "uniform": "s", "random": "^", "ladder": "v"}
TRAINED_STAGES = ("teacher", "finetune")
MOST_CLASSES = 24
"""Classes that a figure shows; of more, those that lost most."""


@dataclass(frozen=True)
class Term:
    """One bounded term of a budget: which ratio of a trial it bounds, and how much was asked."""

    name: str
    label: str
    ratio: Callable[[Trial], float]
    asked: float


def figures(findings: Findings) -> dict[str, str]:
    """SVG documents by name, in reading order; only those for which there are data."""
    drawn: dict[str, str] = {}
    if findings.trials:
        for term in budget_terms(findings):
            drawn[f"front-{term.name}"] = front(findings, term)
        drawn["search"] = search_history(findings)
        if len(compared_trials(findings)) > 1:
            drawn["controls"] = controls(findings)
    drawn["channels"] = channels(findings)
    drawn["macs"] = macs(findings)
    for stage in TRAINED_STAGES:
        if stage in findings.records and findings.records[stage].curves:
            drawn[f"training-{stage}"] = training(findings, stage)
    if len(classes_compared(findings)) > 1:
        drawn["classes"] = classes(findings)
    return drawn


def budget_terms(findings: Findings) -> list[Term]:
    """The terms of the budget that bound a trial's cost, as times smaller than the dense network."""
    dense, limits = findings.evaluation.teacher_cost, findings.limits
    terms = []
    if limits.macs is not None:
        terms.append(Term("speedup", "times fewer MACs", lambda trial: trial.speedup, dense.macs / limits.macs))
    if limits.file_bytes is not None:
        asked = dense.file_bytes / limits.file_bytes
        terms.append(Term("compression", "times smaller file", lambda trial: trial.compression, asked))
    return terms


def front(findings: Findings, term: Term) -> str:
    """All trials, metric over `term`: markers by origin, the best of them joined, the teacher, the budget."""
    with canvas(3.9) as (figure, (axes,)):
        best = pareto([(term.ratio(trial), trial.score) for trial in findings.trials], findings.higher_is_better)
        axes.step(*zip(*best, strict=True), where="pre", color=MUTED, linewidth=1, zorder=1, label="best of all trials")
        for origin, marker in MARKERS.items():
            found = [trial for trial in findings.trials if trial.origin == origin]
            if found:
                points = [term.ratio(trial) for trial in found], [trial.score for trial in found]
                colour = ORIGINS[origin]
                axes.scatter(*points, marker=marker, s=32, color=colour, edgecolors=PAPER, linewidths=0.5, label=origin)
        if findings.winner:
            _ring(axes, term.ratio(findings.winner), findings.winner.score)
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
        for origin, marker in MARKERS.items():
            found = [trial for trial in findings.trials if trial.origin == origin]
            if found:
                points = [trial.index for trial in found], [trial.score for trial in found]
                colour = ORIGINS[origin]
                axes.scatter(*points, marker=marker, s=32, color=colour, edgecolors=PAPER, linewidths=0.5, label=origin)
        proposed = [trial for trial in findings.trials if trial.origin == "tuner"]
        if proposed:
            better = max if findings.higher_is_better else min
            best = [better(trial.score for trial in proposed[: count + 1]) for count in range(len(proposed))]
            axes.step([t.index for t in proposed], best, where="post", color=AFTER, linewidth=1, label="tuner's best")
        if findings.winner:
            _ring(axes, findings.winner.index, findings.winner.score)
        if findings.dense_score is not None:
            axes.axhline(findings.dense_score, color=TEACHER, linewidth=1.2, linestyle="--", label="teacher, dense")
        _count_along(axes)
        axes.set(xlabel="trial", ylabel=f"{findings.evaluation.metric_name}, before fine-tuning")
        figure.legend(loc="outside lower center", ncols=3)
        return svg(figure, "search")


def compared_trials(findings: Findings) -> list[Trial]:
    """The winner, every control, and whatever else got the short fine-tuning; best first within each."""
    sign = -1 if findings.higher_is_better else 1

    def rank(trial: Trial) -> tuple[bool, bool, float]:
        score = trial.score if trial.tuned_score is None else trial.tuned_score
        return trial is not findings.winner, trial.origin in ("uniform", "random"), sign * score

    wanted = [
        trial
        for trial in findings.trials
        if trial is findings.winner or trial.origin in ("uniform", "random") or trial.tuned_score is not None
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
        _rows(axes, [_trial_name(findings, trial) for trial in trials])
        axes.set_xlabel(findings.evaluation.metric_name)
        figure.legend(loc="outside lower center", ncols=3)
        return svg(figure, "controls")


def channels(findings: Findings) -> str:
    """Channels of every group, before and after."""
    before = {group.name: group.channels for group in findings.dense_profile.groups}
    after = {group.name: group.channels for group in findings.slim_profile.groups}
    return _bars(before, after, "channels", "channels", str)


def macs(findings: Findings) -> str:
    """MACs of every layer, before and after."""
    before, after = findings.dense_profile.cost().macs_by_layer, findings.slim_profile.cost().macs_by_layer
    return _bars(before, after, "macs", "MACs of one example", count_text)


def training(findings: Findings, stage: str) -> str:
    """Curves of one training, a panel for each kind of figure (`train_loss` and `val_loss` share one)."""
    panels = curve_panels(findings.records[stage].curves)
    with canvas(0.9 + 1.75 * len(panels), rows=len(panels)) as (figure, panel_axes):
        for axes, (kind, series) in zip(panel_axes, panels.items(), strict=True):
            for colour, (name, values) in zip(SERIES * len(series), series.items(), strict=False):
                mark = "o" if len(values) == 1 else ""
                axes.plot(range(1, len(values) + 1), values, color=colour, marker=mark, label=name)
            axes.set_ylabel(kind)
            _count_along(axes)
            if len(series) > 1 or next(iter(series)) != kind:
                axes.legend(loc="best")
        panel_axes[-1].set_xlabel("epoch")
        return svg(figure, f"training-{stage}")


def curve_panels(curves: Mapping[str, tuple[float, ...]]) -> dict[str, dict[str, tuple[float, ...]]]:
    """Curves grouped by what they measure, the last word of their name.

    >>> curve_panels({"train_loss": (2.0, 1.0), "val_loss": (2.1, 1.4), "lr": (0.1, 0.05)})
    {'loss': {'train': (2.0, 1.0), 'val': (2.1, 1.4)}, 'lr': {'lr': (0.1, 0.05)}}
    """
    panels: dict[str, dict[str, tuple[float, ...]]] = {}
    for name, values in curves.items():
        who, _, kind = name.rpartition("_")
        panels.setdefault(kind, {})[who or kind] = values
    return panels


def classes_compared(findings: Findings) -> dict[str, tuple[float, float]]:
    """(teacher, student) metric of each class; of many classes those in which the student lost most."""
    by_name = {subject.name: subject.metric_by_class for subject in findings.evaluation.subjects}
    teacher, student = by_name.get("teacher", {}), by_name.get("student", {})
    pairs = {name: (teacher[name], student[name]) for name in teacher if name in student}
    if len(pairs) <= MOST_CLASSES:
        return pairs
    sign = 1 if findings.higher_is_better else -1
    lost = sorted(pairs, key=lambda name: sign * (pairs[name][1] - pairs[name][0]))[:MOST_CLASSES]
    return {name: pairs[name] for name in lost}


def classes(findings: Findings) -> str:
    """Metric of each class, teacher against student."""
    pairs = classes_compared(findings)
    with canvas(1.1 + 0.24 * len(pairs)) as (figure, (axes,)):
        for row, (teacher, student) in enumerate(pairs.values()):
            axes.plot([teacher, student], [row, row], color=BEFORE, linewidth=2.2, solid_capstyle="round")
            axes.plot([teacher], [row], "o", color=TEACHER, markersize=6.5, label=None if row else "teacher")
            axes.plot([student], [row], "o", color=AFTER, markersize=4.5, label=None if row else "student")
        _rows(axes, [shorten(name) for name in pairs])
        axes.set_xlabel(f"{findings.evaluation.metric_name} within the class, on test")
        figure.legend(loc="outside lower center", ncols=2)
        return svg(figure, "classes")


def _bars(
    before: Mapping[str, int], after: Mapping[str, int], name: str, label: str, text: Callable[[int], str]
) -> str:
    """A wide bar for before, a narrow one in it for after, both figures beside it; a name gone from `after` is 0."""
    names = list(dict.fromkeys([*before, *after]))
    height = 0.2 if len(names) <= 24 else 0.15
    size = 9.0 if len(names) <= 24 else 7.0
    with canvas(1.1 + height * len(names)) as (figure, (axes,)):
        rows = range(len(names))
        axes.barh(rows, [before.get(n, 0) for n in names], height=0.8, color=BEFORE, label="before")
        axes.barh(rows, [after.get(n, 0) for n in names], height=0.4, color=AFTER, label="after")
        for row, entry in enumerate(names):
            was, now = before.get(entry, 0), after.get(entry, 0)
            words = text(was) if was == now else f"{text(was)} → {text(now)}"
            place = (max(was, now), row)
            axes.annotate(words, place, (4, 0), textcoords="offset points", va="center", fontsize=size, color=INK)
        axes.margins(x=0.3)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(lambda value, _: text(int(value)))
        _rows(axes, [shorten(n) for n in names], size=size)
        axes.set_xlabel(label)
        figure.legend(loc="outside lower center", ncols=2)
        return svg(figure, name)


def _rows(axes: "Axes", names: list[str], size: float = 9.0) -> None:
    """One named row a line, the first on top."""
    axes.set_yticks(range(len(names)), names, fontsize=size, color=INK)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)


def _count_along(axes: "Axes") -> None:
    """Whole numbers only below the axis: there is no trial 2.5."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _ring(axes: "Axes", x: float, y: float) -> None:
    axes.scatter([x], [y], s=110, facecolors="none", edgecolors=WINNER, linewidths=1.8, zorder=4, label="winner")


def _trial_name(findings: Findings, trial: Trial) -> str:
    kind = "winner" if trial is findings.winner else trial.origin
    return f"{kind}, trial {trial.index}"
