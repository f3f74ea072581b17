"""The description on a run's page, in markdown: did it work, on which file, what did it cost, on which data."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pocketpipe.evaluation import Evaluation, Subject
from pocketpipe.record import StageRecord, warnings_of
from pocketpipe.reporting.numbers import metric_text
from pocketpipe.reporting.wording import bytes_text, count_text, headline, share_text
from pocketpipe.tracking.datasets import digests_of
from pocketpipe.tracking.gates import Promotion

SHORT_DIGEST = 12


@dataclass(frozen=True)
class StageSummary:
    """What the run's page says of one stage."""

    name: str
    seconds: float
    record: StageRecord | None
    failed: bool = False
    skipped_for: str | None = None
    """Markdown link to the run that made its outputs, where it had nothing to do."""


@dataclass
class Summary:
    """What is known of a run when it ends."""

    commit: str | None = None
    status: str = "FINISHED"
    error: str | None = None
    evaluation: Evaluation | None = None
    promotion: Promotion | None = None
    stages: list[StageSummary] = field(default_factory=list)

    @property
    def outcome(self) -> Literal["kept", "missed", "refused"] | None:
        """Of the budget, and of a newcomer that kept it but was not promoted; None if it was not evaluated."""
        if self.evaluation is None:
            return None
        if not self.evaluation.budget_kept:
            return "missed"
        return "refused" if self.promotion is not None and not self.promotion.promoted else "kept"


def describe_run(summary: Summary) -> str:
    """The whole description; sections without content are left out."""
    sections = [_outcome(summary)]
    if summary.evaluation is not None:
        sections += [_verdicts(summary.evaluation), _cost(summary.evaluation), _figures(summary.evaluation)]
    if summary.promotion is not None:
        reasons = "\n".join(f"- {_cell(reason)}" for reason in summary.promotion.reasons)
        sections.append(f"**Promotion** weighed:\n\n{reasons}")
    sections += [_time(summary.stages), _data(summary.stages), _warnings(summary.stages)]
    if summary.commit:
        sections.append(f"**Code** git commit {summary.commit}")
    return "\n\n".join(section for section in sections if section) + "\n"


def describe_stage(record: StageRecord) -> str:
    """The description on a stage's page; its figures stand below it."""
    lines = [f"**Measured on** {_cell(record.data)}"] if record.data else []
    lines += [f"**Warning** {_cell(warning)}" for warning in record.warnings]
    return "\n\n".join(lines)


def last_line(error: str) -> str:
    """The line that says it: of a traceback, the exception itself.

    >>> last_line("Traceback (most recent call last):\\n  ...\\nValueError: too small\\n")
    'ValueError: too small'
    """
    return error.strip().rpartition("\n")[2]


def duration_text(seconds: float) -> str:
    """A duration as a person says it.

    >>> [duration_text(s) for s in (0.04, 8.25, 75, 7500)]
    ['0.0 s', '8.2 s', '1 min 15 s', '2 h 5 min']
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _outcome(summary: Summary) -> str:
    """MLflow shows some six lines before "Show more": what matters most stands here."""
    lines = []
    if summary.error is not None or summary.status != "FINISHED":
        stage = next((f" in stage {s.name}" for s in summary.stages if s.failed), "")
        reason = _cell(last_line(summary.error or "no reason was given"))
        lines.append(f"**{'Failed' if summary.status == 'FAILED' else 'Stopped'}{stage}** {reason}")
        if summary.error and reason != _cell(summary.error):
            lines.append("The whole of it: `error.txt` among the artifacts.")
    if summary.evaluation is not None:
        lines.append(f"**{_cell(headline(summary.evaluation))}**")
        lines.append(f"**Measured on** {_cell(summary.evaluation.data)}; the file is named beside each verdict.")
        if summary.evaluation.nearest_plan and not summary.evaluation.budget_kept:
            lines.append(f"**Nearest plan that passes** {_cell(summary.evaluation.nearest_plan)}")
    if summary.promotion is not None:
        lines.append(f"**Promotion** {_cell(str(summary.promotion))}")
    return "\n\n".join(lines)


def _verdicts(evaluation: Evaluation) -> str:
    rows = (
        (v.requirement, v.asked, v.got, v.file, f"**{v.status}**" + (f": {v.reason}" if v.reason else ""))
        for v in evaluation.verdicts
    )
    return "**Verdicts**\n\n" + _table(("requirement", "asked", "got", "measured on", "verdict"), rows)


def _cost(evaluation: Evaluation) -> str:
    teacher, student = evaluation.teacher_cost, evaluation.student_cost
    of_the_file = "bytes of the file" if student.transport_file is None else f"bytes of {student.transport_file}"
    rows = (
        ("MACs of one example", count_text, teacher.macs, student.macs),
        ("parameters", count_text, teacher.parameters, student.parameters),
        (of_the_file, bytes_text, teacher.file_bytes, student.file_bytes),
    )
    head = ("cost", f"teacher ({teacher.source})", f"student ({student.source})", "times smaller")
    return "**Cost**\n\n" + _table(
        head, ((what, text(before), text(now), f"{before / max(1, now):.2f}x") for what, text, before, now in rows)
    )


def _figures(evaluation: Evaluation) -> str:
    head = ("network", "file", "examples", evaluation.metric_name, "worst class", "agrees with ONNX Runtime", "latency")
    rows = [_figure_row(s, s.worst(higher_is_better=evaluation.higher_is_better)) for s in evaluation.subjects]
    missing = [f"- {_cell(f'{s.name}: {s.not_measured}')}" for s in evaluation.subjects if s.not_measured]
    table = f"**Figures** on {_cell(evaluation.data)}\n\n" + _table(head, rows)
    return "\n".join([table, "", *missing]) if missing else table


def _figure_row(subject: Subject, worst_class: tuple[str, float] | None) -> Sequence[str]:
    if subject.not_measured:
        return (subject.name, subject.file, "0", "not measured", "", "", "")
    worst = "" if worst_class is None else f"{worst_class[0]}: {metric_text(worst_class[1])}"
    latency = "" if subject.latency_ms is None else f"{subject.latency_ms:.3f} ms"
    if subject.latency_ratio is not None:
        latency += f" ({subject.latency_ratio:.2f}x ONNX Runtime's)"
    agreement = "" if subject.agreement is None else share_text(subject.agreement)
    if subject.compared is not None:
        agreement += f"; {subject.differing:,} integers differ from the reference's ({subject.compared:,} examples)"
    return (
        subject.name,
        subject.file,
        f"{subject.examples:,}",
        metric_text(subject.metric),
        worst,
        agreement,
        latency,
    )


def _time(stages: Sequence[StageSummary]) -> str:
    if not stages:
        return ""
    total = sum(stage.seconds for stage in stages)
    return f"**Time** {duration_text(total)}\n\n" + _table(
        ("stage", "time", "measured on"), ((s.name, _stage_time(s), s.record.data if s.record else "") for s in stages)
    )


def _stage_time(stage: StageSummary) -> str:
    if stage.skipped_for is not None:
        return f"nothing to do, fresh since {stage.skipped_for}"
    return duration_text(stage.seconds) + (" **failed**" if stage.failed else "")


def _data(stages: Sequence[StageSummary]) -> str:
    record = next((s.record for s in stages if s.record and s.record.stage == "data"), None)
    if record is None:
        return ""
    rows = (
        (split, _examples(record.metrics.get(f"{split}_examples")), f"`{digest[:SHORT_DIGEST]}`")
        for split, digest in digests_of(record).items()
    )
    return f"**Data** {_cell(record.data)}\n\n" + _table(("split", "examples", "sha256 of the contents"), rows)


def _examples(count: float | None) -> str:
    return "" if count is None else f"{int(count):,}"


def _warnings(stages: Sequence[StageSummary]) -> str:
    lines = warnings_of(stage.record for stage in stages if stage.record)
    return "**Warnings**\n\n" + "\n".join(f"- {_cell(line)}" for line in lines) if lines else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """MLflow draws tables without any space between columns: each cell brings its own."""
    lines = ["| " + " | ".join(f"{_cell(cell)}&emsp;" for cell in line) + " |" for line in (head, *rows)]
    return "\n".join([lines[0], "|" + " :--- |" * len(head), *lines[1:]])


def _cell(words: str) -> str:
    """Text that cannot break out of a line or a table's cell."""
    return " ".join(words.split()).replace("|", "\\|").replace("<", "&lt;")
