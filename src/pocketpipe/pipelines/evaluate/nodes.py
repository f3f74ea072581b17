"""Measure everything that was made on the test split, and hold it against the budget."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import numpy as np

from pocketpipe.budget import Budget
from pocketpipe.champion import Yardstick
from pocketpipe.delivery.folder import folder_name
from pocketpipe.delivery.metadata import DeliveryMetadata
from pocketpipe.delivery.model import LIBRARY_FILE
from pocketpipe.errors import NotMeasured, UserError
from pocketpipe.evaluation import EvaluateSettings, Evaluation, Subject
from pocketpipe.exporting.executing import run_onnx
from pocketpipe.exporting.packing import pack
from pocketpipe.exporting.transport import delivered_cost
from pocketpipe.network import StoredNetwork
from pocketpipe.pipelines.evaluate.integers import Expected, expected_of, refuse_differing
from pocketpipe.pipelines.evaluate.latency import beside_onnx_runtime
from pocketpipe.pipelines.evaluate.verdicts import judge
from pocketpipe.record import StageRecord
from pocketpipe.reporting.wording import nearest_text
from pocketpipe.search.nearest import nearest_passing
from pocketpipe.search.trial import Trial
from pocketpipe.targets.base import TARGETS, Target
from pocketpipe.task import Split, Task, TaskChoice
from pocketpipe.training.inference import predict

ONNX_FILE = "student.onnx"

OF_THE_METRIC = ("accuracy_drop", "minimum_metric")
"""Requirements that a plan of another size may keep."""


@dataclass(frozen=True)
class References:
    """What a delivered library is held against."""

    onnx: bytes
    outputs: np.ndarray
    """Of ONNX Runtime on that file, all test examples."""
    integers: Expected | None
    """Of the integer reference; None for a network in float."""


Ran = tuple[Subject, np.ndarray | None]
"""A target, and its outputs on the first test examples; None where it cannot be executed."""


def evaluate(
    task_choice: TaskChoice,
    budget: Budget,
    targets: list[str],
    settings: EvaluateSettings,
    test: Split,
    teacher: StoredNetwork,
    student: StoredNetwork,
    teacher_onnx: bytes,
    student_onnx: bytes,
    student_packed: bytes,
    deliveries: Path,
    trials: list[Trial],
    search_record: StageRecord,
    data_root: Path,
    champion: Yardstick | None = None,
) -> tuple[Evaluation, StageRecord]:
    """(evaluation, record). The record counts how often the test split was opened: once.

    Raises UserError, naming the operator, if a target's integers are not those of the integer graph.
    """
    task = task_choice.build(data_root)
    teacher_cost = delivered_cost(teacher_onnx, pack(teacher_onnx), "teacher.onnx")
    student_cost = delivered_cost(student_onnx, student_packed, ONNX_FILE)
    prepared = task.preprocessing(test.inputs)
    reference = run_onnx(student_onnx, prepared)
    lowered = any(TARGETS.resolve(name).lowers for name in targets)  # else the file may have no integer form
    expected = expected_of(student_onnx, prepared, student_cost.macs, settings.reference_macs) if lowered else None
    references = References(student_onnx, reference, expected)
    delivered = [_delivered(name, deliveries, task, test, references, settings) for name in targets]
    teacher_outputs = predict(teacher.build(task), task, test.inputs)
    student_outputs = predict(student.build(task), task, test.inputs)
    judged = [_subject("onnx", ONNX_FILE, task, test, reference, reference), *(subject for subject, _ in delivered)]
    whole = [made for _, made in delivered if made is not None and len(made) == len(test)]
    subjects = [
        _subject("teacher", "teacher (PyTorch)", task, test, teacher_outputs),
        _subject("student", "student (PyTorch)", task, test, student_outputs, reference),
        *judged,
    ]
    if not whole and expected is not None and expected.whole(len(test)):
        whole.append(expected.outputs)
        subjects.append(_subject("integers", f"{ONNX_FILE} (integer reference)", task, test, whole[0], reference))
    verdicts = judge(
        budget,
        task,
        (teacher_cost, student_cost),
        judged,
        lambda count: task.metric(teacher_outputs[:count], test.targets[:count]),
    )
    lost = any(verdict.status == "failed" and verdict.requirement in OF_THE_METRIC for verdict in verdicts)
    evaluation = Evaluation(
        metric_name=task.metric_name,
        higher_is_better=task.higher_is_better,
        data=test.name,
        test_digest=test.digest,
        labels=tuple(task.labels),
        teacher_cost=teacher_cost,
        student_cost=student_cost,
        subjects=tuple(subjects),
        verdicts=verdicts,
        nearest_plan=_nearest(trials, search_record, budget, task) if lost and trials else None,
        scores=tuple(task.scores(next(iter(whole), reference), test.targets).tolist()),
        teacher_scores=tuple(task.scores(teacher_outputs, test.targets).tolist()),
        champion_scores=_champion_scores(champion, task, test, settings.reference_macs),
    )
    record = _record(evaluation, search_record, task)
    return evaluation, record.model_copy(update={"warnings": (*record.warnings, *_drawn_anew(champion, task, test))})


def _drawn_anew(champion: Yardstick | None, task: Task, test: Split) -> tuple[str, ...]:
    """A line if the test split is not the champion's, and may hold what the champion and its teacher have learned."""
    if champion is None or champion.evaluation.test_digest == test.digest or not task.redraws_splits:
        return ()
    return (
        f"{test.name}: drawn anew since the champion's, so champion and teacher may have learned from it; for data "
        "that grows set pick = staticmethod(by_content) on the task",
    )


def _subject(
    name: str, file: str, task: Task, test: Split, outputs: np.ndarray, reference: np.ndarray | None = None
) -> Subject:
    same = None if reference is None else reference[: len(outputs)]
    targets = test.targets[: len(outputs)]
    return Subject(
        name=name,
        file=file,
        examples=len(outputs),
        metric=task.metric(outputs, targets),
        metric_by_class=_known(task.metric_by_class(outputs, targets)),
        agreement=None if same is None else task.agreement(outputs, same),
        max_difference=None if same is None else float(np.abs(outputs - same).max()),
    )


def _known(by_class: Mapping[str, float]) -> dict[str, float]:
    """Without parts of the data of which no example was there, whose mean is no number."""
    return {name: metric for name, metric in by_class.items() if isfinite(metric)}


def _delivered(
    name: str,
    deliveries: Path,
    task: Task,
    test: Split,
    references: References,
    settings: EvaluateSettings,
) -> Ran:
    target: Target = TARGETS.resolve(name)
    folder = deliveries / folder_name(name)
    file = f"{folder.name}/{target.library_name}"
    sizes = _sizes(folder)
    count = min(len(test), settings.emulated_examples) if target.emulated else len(test)
    try:
        outputs = target.run(folder, test.inputs[:count])
    except NotMeasured as reason:
        return Subject(name=name, file=file, not_measured=str(reason)).model_copy(update=sizes), None
    measured: dict[str, float | int] = dict(sizes)
    if references.integers is not None and target.lowers:
        refuse_differing(references.integers, target, file, outputs)
        measured |= {"compared": min(count, len(references.integers.leaving)), "differing": 0}
    if target.timed and not target.emulated and (folder / LIBRARY_FILE).is_file():
        latency = beside_onnx_runtime(folder, references.onnx, test.inputs[:1], task, settings.latency_runs)
        measured |= dict(zip(("latency_ms", "latency_ratio"), latency, strict=True))
    return _subject(name, file, task, test, outputs, references.outputs).model_copy(update=measured), outputs


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes that the delivery takes on the device."""
    footprint = DeliveryMetadata.read(folder).footprint
    if footprint is None:
        return {}
    return {
        "flash_bytes": footprint.flash or footprint.library,
        "ram_bytes": footprint.ram or footprint.arena,
    }


def _champion_scores(
    champion: Yardstick | None, task: Task, test: Split, reference_macs: int
) -> tuple[float, ...] | None:
    """As its own targets have them: of the integer reference, where it is quantized and that takes minutes."""
    if champion is None:
        return None
    prepared = task.preprocessing(test.inputs)
    try:
        expected = expected_of(champion.onnx, prepared, champion.evaluation.student_cost.macs, reference_macs)
    except UserError:  # its targets took the file as it is
        expected = None
    if expected is not None and expected.whole(len(test)):
        outputs = expected.outputs
    else:
        outputs = run_onnx(champion.onnx, prepared)
    return tuple(task.scores(outputs, test.targets).tolist())


def _nearest(trials: list[Trial], search_record: StageRecord, budget: Budget, task: Task) -> str:
    dense = search_record.metrics[f"dense_{task.metric_name}"]
    carried_out = search_record.facts.get("missed", search_record.facts.get("winner"))
    winner = next((trial for trial in trials if trial.index == carried_out), None)
    passing = nearest_passing(trials, dense, budget, missed=winner, higher_is_better=task.higher_is_better)
    return nearest_text(passing, dense, budget, task.metric_name)


def _record(evaluation: Evaluation, search_record: StageRecord, task: Task) -> StageRecord:
    figures = [subject.figures(evaluation.metric_name) for subject in evaluation.subjects]
    return StageRecord(
        stage="evaluate",
        metrics={
            "test_openings": 1,
            **{name: value for each in figures for name, value in each.items()},
            **evaluation.teacher_cost.ratio_to(evaluation.student_cost),
        },
        facts={
            "budget_kept": evaluation.budget_kept,
            "test_digest": evaluation.test_digest,
            "scores_sha256": hashlib.sha256(repr(evaluation.scores).encode()).hexdigest(),
        },
        warnings=_optimistic_selection(evaluation, search_record, task),
        data=evaluation.data,
    )


def _optimistic_selection(evaluation: Evaluation, search_record: StageRecord, task: Task) -> tuple[str, ...]:
    """A line if the data on which the plan was chosen flatters the teacher by more than three standard errors."""
    chosen_on = search_record.metrics[f"dense_{task.metric_name}"]
    teacher = evaluation.subject("teacher")
    assert teacher.metric is not None
    if not task.higher_is_better or not 0.0 <= teacher.metric <= 1.0:
        return ()  # the standard error is that of a share
    error = (teacher.metric * (1 - teacher.metric) / teacher.examples) ** 0.5
    if chosen_on - teacher.metric <= 3 * error:
        return ()
    return (
        f"the teacher has {task.metric_name} {chosen_on:.4f} on {search_record.data} but {teacher.metric:.4f} on "
        f"{evaluation.data}: the data on which the plan was chosen flatters it (seen in training?); see task.holdout",
    )
