"""The report's figures as SVG documents: on their own good for MLflow, and inlined into the page."""

from collections.abc import Callable, Mapping

from pocketpipe.reporting.drawing import (
    AFTER,
    BEFORE,
    INK,
    SERIES,
    TEACHER,
    canvas,
    count_along,
    name_rows,
    shorten,
    svg,
)
from pocketpipe.reporting.findings import Findings
from pocketpipe.reporting.search_figures import budget_terms, compared_trials, controls, front, search_history
from pocketpipe.reporting.wording import count_text

TRAINED_STAGES = ("teacher", "sparsify", "finetune")
MOST_CLASSES = 24
"""Classes that a figure shows; of more, those that lost most."""


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
            count_along(axes)
            if len(series) > 1 or next(iter(series)) != kind:
                axes.legend(loc="best")
        panel_axes[-1].set_xlabel("epoch")
        return svg(figure, f"training-{stage}")


def curve_panels(curves: Mapping[str, tuple[float, ...]]) -> dict[str, dict[str, tuple[float, ...]]]:
    """Curves grouped by what they measure; before that, their name has the split.

    >>> curve_panels({"train_loss": (2.0, 1.0), "val_loss": (2.1, 1.4), "learning_rate": (0.1, 0.05)})
    {'loss': {'train': (2.0, 1.0), 'val': (2.1, 1.4)}, 'learning_rate': {'learning_rate': (0.1, 0.05)}}
    >>> curve_panels({"val_loss": (2.1,), "val_log_loss": (0.4,)})
    {'loss': {'val': (2.1,)}, 'log_loss': {'val': (0.4,)}}
    """
    panels: dict[str, dict[str, tuple[float, ...]]] = {}
    for name, values in curves.items():
        who = next((split for split in ("train", "val") if name.startswith(f"{split}_")), None)
        kind = name if who is None else name.removeprefix(f"{who}_")
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
        name_rows(axes, [shorten(name) for name in pairs])
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
        name_rows(axes, [shorten(n) for n in names], size=size)
        axes.set_xlabel(label)
        figure.legend(loc="outside lower center", ncols=2)
        return svg(figure, name)
