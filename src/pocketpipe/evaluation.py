"""Evaluation: what came out when the test split was opened, once, after plan and weights were final."""

from collections.abc import Sequence
from math import fsum
from typing import Annotated

from pydantic import Field

from pocketpipe.cost import Cost
from pocketpipe.doors import Value
from pocketpipe.verdict import Verdict, budget_kept


class Subject(Value):
    """One thing that was evaluated: a network in PyTorch, the ONNX file, or a delivered library.

    >>> Subject(name="onnx", file="student.onnx", metric=0.97, metric_by_class={"0": 1.0, "8": 0.9}).worst()
    ('8', 0.9)
    """

    name: str
    """teacher, student, onnx, the target's name, or integers: their reference, where it stands for targets that saw
    fewer test examples."""
    file: str
    examples: int = 0
    metric: float | None = None
    metric_by_class: dict[str, float] = {}
    agreement: float | None = None
    """Share of examples with the same meaning as ONNX Runtime on the student's ONNX file."""
    max_difference: float | None = None
    """Largest absolute difference of an output to ONNX Runtime's."""
    compared: int | None = None
    """Examples on which the outputs' integers were compared with the integer reference's; None for a float network."""
    differing: int | None = None
    """Integers that differ from the reference's on those: 0, or the run would have failed."""
    latency_ms: float | None = None
    """Median at batch 1 on this host, on as many threads as the delivery was compiled for."""
    latency_ratio: float | None = None
    """Latency over ONNX Runtime's in the same process, on as many threads, in turns."""
    flash_bytes: int | None = None
    """Bytes of the delivery that lie on the device: code, weights, tables."""
    ram_bytes: int | None = None
    """Memory that one inference takes on the device."""
    not_measured: str | None = None
    """Why there are no figures, and how to get them."""

    def figures(self, metric_name: str) -> dict[str, float]:
        """What was measured of it, by names that begin with its own.

        >>> Subject(name="onnx", file="student.onnx", metric=0.97).figures("accuracy")
        {'onnx_accuracy': 0.97}
        """
        measured = {
            metric_name: self.metric,
            "agreement": self.agreement,
            "differing": self.differing,
            "latency_ms": self.latency_ms,
            "latency_ratio_to_onnxruntime": self.latency_ratio,
            "flash_bytes": self.flash_bytes,
            "ram_bytes": self.ram_bytes,
        }
        return {f"{self.name}_{figure}": value for figure, value in measured.items() if value is not None}

    def worst(self, *, higher_is_better: bool = True) -> tuple[str, float] | None:
        """Class with the worst metric, and that metric."""
        if not self.metric_by_class:
            return None
        choose = min if higher_is_better else max
        return choose(self.metric_by_class.items(), key=lambda item: item[1])


class Evaluation(Value):
    """Subjects and verdicts of one run."""

    metric_name: str
    higher_is_better: bool = True
    """Direction of the metric: the task's."""
    data: str
    """Which test data ("test, 360 of 1,797 digits, seed 0")."""
    test_digest: str
    teacher_cost: Cost
    student_cost: Cost
    subjects: tuple[Subject, ...]
    verdicts: tuple[Verdict, ...]
    nearest_plan: str | None = None
    """Where the budget was not kept: the nearest plan that passes, in words."""
    labels: tuple[str, ...] = ()
    """The task's: one name for each output."""
    scores: tuple[float, ...] = ()
    """Score of `delivered` on each test example, in order, for paired comparison."""
    teacher_scores: tuple[float, ...] = ()
    """The teacher's on the same examples."""
    champion_scores: tuple[float, ...] | None = None
    """The champion's scores on the same examples, where a champion was evaluated beside."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of what it answers with; where that was not recorded, of the classes that it was measured on."""
        return self.labels or tuple(next((s.metric_by_class for s in self.subjects if s.name == "onnx"), {}))

    def answers_as(self, labels: tuple[str, ...]) -> bool:
        """Whether its outputs mean what a task with these labels means; True if nothing is known of one of them."""
        if not self.labels:
            return not self.classes or not labels or set(self.classes) == set(labels)
        return not labels or self.labels == labels

    @property
    def budget_kept(self) -> bool:
        """Whether every requirement that could be measured was met."""
        return budget_kept(self.verdicts)

    @property
    def delivered(self) -> Subject | None:
        """The subject that stands for what is delivered: the first target's that saw all test examples, else the
        reference of their integers, else the ONNX file, else the student.
        """
        whole = max((subject.examples for subject in self.subjects), default=0)
        named = {subject.name: subject for subject in self.subjects}
        by_target = [s for name, s in named.items() if name not in ("teacher", "student", "onnx")]
        seen = next((s for s in by_target if s.metric is not None and s.examples == whole), None)
        return seen or named.get("onnx") or named.get("student")

    @property
    def delivered_metric(self) -> float | None:
        """Metric of the student as delivered: mean of its scores, else what its subject tells."""
        if self.scores:
            return fsum(self.scores) / len(self.scores)
        return None if self.delivered is None else self.delivered.metric

    def subject(self, name: str) -> Subject:
        """The subject of that name. Raises KeyError."""
        return {subject.name: subject for subject in self.subjects}[name]


def gains(evaluation: Evaluation, others: Sequence[float]) -> list[float]:
    """By how much each test example went better than with `others`; empty where these are not scores of the same."""
    if len(others) != len(evaluation.scores):
        return []
    sign = 1 if evaluation.higher_is_better else -1
    return [sign * (mine - theirs) for mine, theirs in zip(evaluation.scores, others, strict=True)]


def sign_test(differences: Sequence[float]) -> tuple[int, int, float]:
    """(examples won, examples lost, two-sided exact p that winning and losing are equally likely).

    For scores of 0 and 1 this is McNemar's exact test. Ties are left out (Dixon and Mood 1946).

    >>> sign_test([1, 1, 1, 1, 1, 0, 0, -1])
    (5, 1, 0.21875)
    """
    won = sum(difference > 0 for difference in differences)
    lost = sum(difference < 0 for difference in differences)
    decided = won + lost
    tail = ways = 1  # to lose (or win) so many of those decided
    for k in range(min(won, lost)):
        ways = ways * (decided - k) // (k + 1)
        tail += ways
    return won, lost, min(1.0, 2 * tail / 2**decided)


class EvaluateSettings(Value):
    """The `evaluate` section of a configuration."""

    emulated_examples: Annotated[int, Field(gt=0)] = 1000
    """Test examples that run on a target through an emulator, which is hundreds of times slower than the device."""
    reference_macs: Annotated[int, Field(gt=0)] = 500_000_000_000
    """MACs that the integer reference may take, which does some 10^9 a second: on so many test examples as that allows
    the integers of every target are compared with it (ResNet-20: 12,000)."""
    latency_runs: Annotated[int, Field(gt=0)] = 300
    """Measured runs of the library and of ONNX Runtime, in turns."""
