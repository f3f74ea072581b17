"""The one-page report: findings in, HTML out. Self-contained, and the same bytes for the same findings."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketpipe.cost import Cost
from pocketpipe.evaluation import Evaluation, Subject, gains, sign_test
from pocketpipe.reporting.drawing import PALETTE, inline
from pocketpipe.reporting.figures import MOST_CLASSES, TRAINED_STAGES, figures
from pocketpipe.reporting.findings import Findings
from pocketpipe.reporting.numbers import ABSENT, difference_text, metric_text
from pocketpipe.reporting.search_figures import compared_trials
from pocketpipe.reporting.wording import (
    bytes_text,
    count_text,
    headline,
    milliseconds_text,
    outcome,
    share_text,
    standard_error,
    teacher,
)
from pocketpipe.verdict import Status

__all__ = ["Findings", "render"]

TEMPLATE = "report.html.jinja"
CHANCE = 0.05
"""From this p of the sign test on, the page says that the test data cannot tell teacher and student apart."""
URGENCY: tuple[Status, ...] = ("failed", "not measured", "passed")


@dataclass(frozen=True)
class Tile:
    """One figure that is read at a glance."""

    label: str
    value: str
    note: str


def render(findings: Findings) -> str:
    """One HTML page with inline figures and no network fetches; equal findings give equal text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "metric": metric_text,
        "share": share_text,
        "difference": difference_text,
        "milliseconds": milliseconds_text,
    }
    evaluation = findings.evaluation
    drawn = {
        name: Markup(inline(document, captions(findings)[name][0])) for name, document in figures(findings).items()
    }
    return environment.get_template(TEMPLATE).render(
        findings=findings,
        evaluation=evaluation,
        outcome=outcome(evaluation),
        verdicts=sorted(evaluation.verdicts, key=lambda verdict: URGENCY.index(verdict.status)),
        headline=headline(evaluation),
        tiles=tiles(findings),
        error=standard_error(evaluation.scores),
        paired=paired_with_teacher(evaluation),
        chance=CHANCE,
        costs=cost_rows(evaluation.teacher_cost, evaluation.student_cost),
        figures=drawn,
        palette=PALETTE,
        captions=captions(findings),
        compared=compared_trials(findings),
        groups=group_rows(findings),
        layers=layer_rows(findings),
        trained_stages=TRAINED_STAGES,
        request=_yaml(findings.request),
        plan=findings.carried_out.to_json(),
        absent=ABSENT,
    )


def tiles(findings: Findings) -> list[Tile]:
    """What a reader wants first: smaller by how much, as good as before, how fast."""
    evaluation = findings.evaluation
    was, now = evaluation.teacher_cost, evaluation.student_cost
    ratio = was.ratio_to(now)
    shown = [
        Tile("fewer MACs", f"{ratio['speedup']:.2f}x", _arrow(count_text(was.macs), count_text(now.macs))),
        Tile(
            "smaller file",
            f"{ratio['compression']:.2f}x",
            _arrow(bytes_text(was.file_bytes), bytes_text(now.file_bytes)),
        ),
    ]
    after, before = evaluation.delivered_metric, teacher(evaluation)
    if after is not None:
        note = f"on {evaluation.delivered.file}" if evaluation.delivered is not None else ""
        if before is not None and before.metric is not None:
            beside = f"teacher {metric_text(before.metric)}, {difference_text(after - before.metric)}"
            note = f"{beside}; {note}" if note else beside
        shown.append(Tile(evaluation.metric_name, metric_text(after), note))
    shown += [
        Tile(f"{subject.name}, one example", milliseconds_text(subject.latency_ms), _beside_runtime(subject))
        for subject in evaluation.subjects
        if subject.latency_ms is not None
    ]
    return shown


def captions(findings: Findings) -> dict[str, tuple[str, str]]:
    """(title, what it shows) of each figure."""
    evaluation = findings.evaluation
    before = f"Measured before fine-tuning, on {findings.selection}."
    front = f"Every plan that was tried. {before}"
    shown = {
        "front-speedup": ("Metric against MACs, all trials", front),
        "front-compression": ("Metric against file size, all trials", front),
        "front-flash": ("Metric against flash, all trials", f"{front} Flash is predicted, against the teacher's."),
        "front-peak_ram": ("Metric against RAM, all trials", f"{front} RAM is predicted, against the teacher's."),
        "search": ("The search, trial by trial", before),
        "controls": (
            f"{'The winner' if findings.winner else 'Finalists'} beside controls of equal budget",
            f"Controls are plans made without a search. On {findings.selection}; "
            "a hollow mark is before fine-tuning, a filled one after the short fine-tuning that the best trials get.",
        ),
        "channels": ("Channels of each group", "Channels that can only be removed together count once, as a group."),
        "macs": ("MACs of each layer", "Predicted from the plan, one example, in network order."),
        "classes": (
            "Class by class",
            f"Teacher and student in PyTorch, on {evaluation.data}.{_chosen(evaluation)}",
        ),
    }
    for stage in TRAINED_STAGES:
        record = findings.records.get(stage)
        data = "" if record is None else record.curves_of or record.data
        shown[f"training-{stage}"] = (f"Training: {stage}", f"On {data}." if data else "")
    return shown


def _chosen(evaluation: Evaluation) -> str:
    """That these are not all classes, if they are not."""
    dense = teacher(evaluation)
    count = 0 if dense is None else len(dense.metric_by_class)
    return f" Of {count:,} classes the {MOST_CLASSES} that lost most." if count > MOST_CLASSES else ""


def cost_rows(was: Cost, now: Cost) -> list[tuple[str, str, str, str]]:
    """(what, before, after, ratio); only what is known of both."""
    rows = [
        ("MACs of one example", f"{was.macs:,}", f"{now.macs:,}", _times(was.macs, now.macs)),
        ("parameters", f"{was.parameters:,}", f"{now.parameters:,}", _times(was.parameters, now.parameters)),
        ("file in transport, packed if smaller", *_byte_cells(was.file_bytes, now.file_bytes)),
    ]
    if was.resident_bytes and now.resident_bytes:
        rows.append(("the same unpacked (resident)", *_byte_cells(was.resident_bytes, now.resident_bytes)))
    if was.peak_ram_bytes and now.peak_ram_bytes:
        rows.append(("peak RAM", *_byte_cells(was.peak_ram_bytes, now.peak_ram_bytes)))
    return rows


def paired_with_teacher(evaluation: Evaluation) -> tuple[int, int, float] | None:
    """(test examples won, lost, p of the sign test) of the student as delivered beside the teacher, if known."""
    differences = gains(evaluation, evaluation.teacher_scores)
    return sign_test(differences) if differences else None


def group_rows(findings: Findings) -> list[tuple[str, str, int, int, str]]:
    """(group, its layers, channels before, after, why it is left whole)."""
    after = {group.name: group.channels for group in findings.slim_profile.groups}
    return [
        (group.name, ", ".join(group.members), group.channels, after.get(group.name, 0), group.reason or "")
        for group in findings.dense_profile.groups
    ]


def layer_rows(findings: Findings) -> list[tuple[str, str, int, int]]:
    """(layer, operator, MACs before, after)."""
    before, after = findings.dense_profile.cost().macs_by_layer, findings.slim_profile.cost().macs_by_layer
    layers = {
        layer.name: layer for profile in (findings.dense_profile, findings.slim_profile) for layer in profile.layers
    }
    return [(name, layer.operator, before.get(name, 0), after.get(name, 0)) for name, layer in layers.items()]


def _beside_runtime(subject: Subject) -> str:
    if subject.latency_ratio is None:
        return subject.file
    return f"{subject.latency_ratio:.2f}x the time of ONNX Runtime"


def _arrow(was: str, now: str) -> str:
    return f"{was} → {now}"


def _byte_cells(was: int, now: int) -> tuple[str, str, str]:
    return f"{was:,} B", f"{now:,} B", _times(was, now)


def _times(was: int, now: int) -> str:
    return f"{was / now:.2f}x" if now else ABSENT


def _yaml(request: Any) -> str:
    import yaml

    plain = json.loads(json.dumps(request, default=_as_text))
    return str(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, default_flow_style=None))


def _as_text(value: object) -> Any:
    return list(value) if isinstance(value, Iterable) else str(value)
