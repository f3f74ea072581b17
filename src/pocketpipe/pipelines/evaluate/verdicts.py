"""From a budget and what was measured to verdicts: a pure function."""

from collections.abc import Callable
from math import nan

from pocketpipe.budget import KB, Budget
from pocketpipe.cost import Cost
from pocketpipe.evaluation import Subject
from pocketpipe.reporting.numbers import difference_text, figures_text, metric_text
from pocketpipe.reporting.wording import asked_text, told_apart
from pocketpipe.task import Task
from pocketpipe.verdict import Status, Verdict

SAME_ANSWERS = 0.999
"""Share of examples on which a compiled library must mean the same as ONNX Runtime: float sums in another order
may tip an example that lies on the border between two classes, no more. Integers must be the very same ones."""
UNTIMED = "no clock of this host tells the time of that device; measure it there"


def judge(
    budget: Budget,
    task: Task,
    costs: tuple[Cost, Cost],
    delivered: list[Subject],
    teacher_metric: Callable[[int], float],
) -> tuple[Verdict, ...]:
    """A verdict for each requirement of the budget on each delivered file.

    `costs`: (teacher, student), measured on their delivered files. `teacher_metric(n)`: the teacher's metric on the
    first n test examples, so that a target that saw fewer of them is compared on the same ones.
    """
    verdicts = _cost_verdicts(budget, *costs)
    for subject in delivered:
        compared = budget.accuracy_drop is not None and subject.metric is not None
        verdicts += _metric_verdicts(budget, task, subject, teacher_metric(subject.examples) if compared else nan)
        verdicts += _device_verdicts(budget, subject)
    return (*verdicts, *(_same_answers(subject) for subject in delivered if subject.name != "onnx"))


def _cost_verdicts(budget: Budget, teacher: Cost, student: Cost) -> list[Verdict]:
    ratios = teacher.ratio_to(student)
    relative = [("speedup", budget.speedup, "MACs"), ("compression", budget.compression, "bytes in transport")]
    absolute = [("macs", budget.macs, student.macs), ("file_bytes", budget.file_bytes, student.file_bytes)]
    onnx = student.source.removeprefix("measured on ")
    files = dict.fromkeys(("compression", "file_bytes"), student.transport_file or onnx)
    sizes = dict.fromkeys(files, _sizes(student))
    return [
        *(
            _verdict(
                name,
                f">= {asked_text(asked, f'{asked:.2f}')}x fewer {unit}",
                f"{_got(ratios[name], asked, f'{ratios[name]:.3f}', ratios[name] >= asked)}x{sizes.get(name, '')}",
                files.get(name, onnx),
                ratios[name] >= asked,
            )
            for name, asked, unit in relative
            if asked is not None
        ),
        *(
            _verdict(name, f"<= {limit:,}", f"{used:,}{sizes.get(name, '')}", files.get(name, onnx), used <= limit)
            for name, limit, used in absolute
            if limit is not None
        ),
    ]


def _sizes(student: Cost) -> str:
    """Bytes on the way and at rest, where they are not the same."""
    if student.resident_bytes in (None, student.file_bytes):
        return ""
    return f" ({student.file_bytes:,} bytes in transport, {student.resident_bytes:,} unpacked)"


def _metric_verdicts(budget: Budget, task: Task, subject: Subject, teacher: float) -> list[Verdict]:
    verdicts = []
    better = 1.0 if task.higher_is_better else -1.0
    metric = subject.metric if subject.metric is not None else nan
    if budget.accuracy_drop is not None:
        drop = better * (teacher - metric)
        word = "drop" if task.higher_is_better else "rise"
        kept, limit = budget.allows_drop(drop), budget.accuracy_drop
        asked = f"{task.metric_name} {word} <= {asked_text(limit, metric_text(limit))}"
        change = f"{metric_text(teacher)} -> {metric_text(metric)}"
        got = f"{_got(drop, limit, difference_text(drop), kept)} ({change}, {subject.examples:,} examples)"
        verdicts.append(_on(subject, "accuracy_drop", asked, got, kept))
    if budget.minimum_metric is not None:
        sign = ">=" if task.higher_is_better else "<="
        limit, enough = budget.minimum_metric, budget.allows_value(metric, higher_is_better=task.higher_is_better)
        asked = f"{task.metric_name} {sign} {asked_text(limit, metric_text(limit))}"
        verdicts.append(_on(subject, "minimum_metric", asked, _got(metric, limit, metric_text(metric), enough), enough))
    return verdicts


def _got(value: float, limit: float, usual: str, met: bool) -> str:
    """`usual`, a text of `value`; of what is not within its limit, one that does not read as if it were."""
    return usual if met else told_apart(value, limit, usual)


def _device_verdicts(budget: Budget, subject: Subject) -> list[Verdict]:
    """Of the flash, the RAM and the time that the budget gives this target."""
    verdicts = []
    sizes = (("flash_kb", budget.flash_kb, subject.flash_bytes), ("ram_kb", budget.ram_kb, subject.ram_bytes))
    for name, by_target, used in sizes:
        if subject.name in by_target:
            limit = by_target[subject.name]
            kept, got = False, None
            if used is not None:
                kept = used <= limit * KB
                got = f"{_got(used / KB, limit, figures_text(used / KB), kept)} kB ({used:,} bytes)"
            asked = f"<= {asked_text(limit, f'{limit:g}')} kB"
            verdicts.append(_if_got(subject, name, asked, got, kept, "its delivery does not tell it"))
    if subject.name in budget.latency_ms:
        limit, time = budget.latency_ms[subject.name], subject.latency_ms
        kept = time is not None and time <= limit
        got = None if time is None else f"{_got(time, limit, figures_text(time), kept)} ms"
        asked = f"<= {asked_text(limit, f'{limit:g}')} ms at batch 1"
        verdicts.append(_if_got(subject, "latency_ms", asked, got, kept, subject.not_measured or UNTIMED))
    return verdicts


def _same_answers(subject: Subject) -> Verdict:
    if subject.compared is not None:
        got = f"{subject.differing:,} differ on {subject.compared:,} examples"
        return _on(subject, "same integers", "as the integer graph, all", got, subject.differing == 0)
    agreement = subject.agreement or 0.0
    enough = agreement >= SAME_ANSWERS
    share = _got(100 * agreement, 100 * SAME_ANSWERS, f"{100 * agreement:.2f}", enough)
    got = f"{share}% (largest difference {subject.max_difference or 0.0:.1e})"
    return _on(subject, "same answers", f">= {SAME_ANSWERS:.1%} as ONNX Runtime", got, enough)


def _on(subject: Subject, requirement: str, asked: str, got: str, met: bool) -> Verdict:
    measured = None if subject.not_measured is not None else got
    return _if_got(subject, requirement, asked, measured, met, subject.not_measured or "")


def _if_got(subject: Subject, requirement: str, asked: str, got: str | None, met: bool, why_not: str) -> Verdict:
    if got is not None:
        return _verdict(requirement, asked, got, subject.file, met)
    return Verdict(
        requirement=requirement, asked=asked, got="-", file=subject.file, status="not measured", reason=why_not
    )


def _verdict(requirement: str, asked: str, got: str, file: str, met: bool) -> Verdict:
    status: Status = "passed" if met else "failed"
    return Verdict(requirement=requirement, asked=asked, got=got, file=file, status=status)
