"""Findings of an imagined run on a residual network of eight layers, made of the real values."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
from torch import nn

from pocketpipe.budget import Budget, Limits
from pocketpipe.errors import UserError
from pocketpipe.evaluation import Evaluation, Subject
from pocketpipe.plan import CompressionPlan, Step
from pocketpipe.profile import Axis, ChannelGroup, Layer, NetworkProfile
from pocketpipe.record import StageRecord
from pocketpipe.reporting.report import Findings
from pocketpipe.search.trial import Trial
from pocketpipe.task import Split, Task
from pocketpipe.verdict import Verdict

TEST = "test, 360 of 1,797 digits, seed 0"
VAL = "val, 288 of 1,797 digits, seed 0"
QEMU = "qemu-aarch64 is not installed; on Debian: apt-get install qemu-user libc6-arm64-cross"


class Thin(Step):
    """A user's own step: the report knows it only by what it predicts."""

    kind: ClassVar[str] = "reporting.sample:Thin"
    widths: dict[str, int] = {}

    def space(self, profile: NetworkProfile) -> dict[str, dict[str, Any]]:
        return {group.name: {"_type": "uniform", "_value": [0.1, 1.0]} for group in profile.slimmable}

    def proposed(self, parameters: Mapping[str, float], profile: NetworkProfile) -> Self:
        widths = {g.name: max(1, round(g.channels * parameters[g.name])) for g in profile.slimmable}
        return self.model_copy(update={"widths": widths})

    def project(self, profile: NetworkProfile, limits: Limits) -> Self:
        """The same proportions, thinned by the smallest factor that keeps `limits`."""
        for factor in np.linspace(1.6, 0.05, 400):
            widths = {g.name: max(1, min(g.channels, int(self.widths[g.name] * factor))) for g in profile.slimmable}
            if limits.keeps(profile.cost(widths)):
                return self.model_copy(update={"widths": widths})
        raise UserError("no width keeps the budget")

    def predict(self, profile: NetworkProfile) -> NetworkProfile:
        return profile.narrowed(self.widths)

    def pin(self, network: nn.Module, task: Task, data: Split) -> Self:
        return self

    def apply(self, network: nn.Module, task: Task) -> nn.Module:
        return network


def _convolution(name: str, inputs: Axis, outputs: str, positions: int) -> Layer:
    weight = (Axis(groups={outputs: 1}), inputs, Axis(fixed=9))
    bias = Axis(groups={outputs: 1})
    return Layer(name=name, operator="conv2d", weight=weight, bias=bias, positions=positions, output_shape=())


def profile(blocks: int = 1) -> NetworkProfile:
    """A residual network for 8x8 digits: three stages of `blocks` blocks, 16, 32 and 64 channels wide."""
    layers = [_convolution("stem", Axis(fixed=1), "stage1", 64)]
    groups = []
    carried = "stage1"
    for stage, (channels, positions) in enumerate(((16, 64), (32, 16), (64, 4)), start=1):
        members = ["stem"] if stage == 1 else []
        for block in range(blocks):
            inner = f"layer{stage}.{block}.conv1"
            layers.append(_convolution(inner, Axis(groups={carried: 1}), inner, positions))
            outer = f"layer{stage}.{block}.conv2"
            layers.append(_convolution(outer, Axis(groups={inner: 1}), f"stage{stage}", positions))
            groups.append(ChannelGroup(name=inner, channels=channels, members=(inner,)))
            members.append(outer)
            carried = f"stage{stage}"
        last = stage == 3
        reason = "its channels are padded with zeros at layer3.0.shortcut" if last else None
        groups.append(
            ChannelGroup(
                name=f"stage{stage}", channels=channels, members=tuple(members), slimmable=not last, reason=reason
            )
        )
    classifier = (Axis(fixed=10), Axis(groups={"stage3": 1}))
    layers.append(
        Layer(name="fc", operator="linear", weight=classifier, bias=Axis(fixed=10), positions=1, output_shape=(10,))
    )
    return NetworkProfile(
        input_shape=(1, 8, 8),
        layers=tuple(layers),
        groups=tuple(groups),
        file_overhead=9000,
    )


def _trial(index: int, origin: Any, ratios: Mapping[str, float], dense: NetworkProfile, score: float) -> Trial:
    step = Thin().proposed(ratios, dense)
    limits = Budget(speedup=2.5, compression=2.0).limits(dense.cost())
    plan = CompressionPlan((step if origin == "ladder" else step.project(dense, limits),))
    cost = plan.predict(dense).cost()
    ratio = dense.cost().ratio_to(cost)
    return Trial(
        index=index,
        origin=origin,
        plan_json=plan.to_json(),
        cost=cost,
        score=round(score, 4),
        seconds=0.4 + index,
        **ratio,
    )


def trials(dense: NetworkProfile) -> list[Trial]:
    """Twenty proposals, three random plans, a uniform one and a ladder of relaxed ones."""
    rng = np.random.default_rng(7)
    names = [group.name for group in dense.slimmable]

    def ratios(centre: float, spread: float) -> dict[str, float]:
        return {name: float(np.clip(centre + spread * rng.standard_normal(), 0.15, 1.0)) for name in names}

    found = [_trial(i, "tuner", ratios(0.58, 0.08), dense, 0.62 + 0.012 * i + rng.normal(0, 0.06)) for i in range(20)]
    found += [_trial(20 + i, "random", ratios(0.58, 0.1), dense, 0.6 + rng.normal(0, 0.08)) for i in range(3)]
    found.append(_trial(23, "uniform", dict.fromkeys(names, 0.58), dense, 0.655))
    found += [
        _trial(24 + i, "ladder", dict.fromkeys(names, keep), dense, keep**0.4) for i, keep in enumerate((0.7, 0.8, 0.9))
    ]
    best = sorted(found[:20], key=lambda trial: -trial.score)[:3]
    for rank, trial in enumerate(best):
        found[trial.index] = trial.model_copy(update={"tuned_score": 0.955 - 0.01 * rank})
    return found


def _by_class(names: tuple[str, ...], centre: float, seed: int) -> dict[str, float]:
    drops = np.random.default_rng(seed).exponential(0.025, len(names))
    return {name: round(float(max(0.5, centre + 0.02 - drop)), 4) for name, drop in zip(names, drops, strict=True)}


def evaluation(
    dense: NetworkProfile,
    plan: CompressionPlan,
    labels: tuple[str, ...],
    *,
    drop: float,
    arm_measured: bool,
    nearest: str | None,
) -> Evaluation:
    teacher_cost = dense.cost().model_copy(update={"source": "measured on teacher.onnx"})
    student_cost = plan.predict(dense).cost().model_copy(update={"source": "measured on student.onnx"})
    ratio = teacher_cost.ratio_to(student_cost)
    teacher, student = 0.9778, round(0.9778 - drop, 4)
    right = round(360 * student)
    by_class = _by_class(labels, student, 3)
    measured = {"examples": 360, "metric": student, "metric_by_class": by_class}
    arm: dict[str, Any] = dict(measured, examples=100, agreement=1.0, max_difference=2e-5)
    if not arm_measured:
        arm = {"not_measured": QEMU}
    subjects = (
        Subject(
            name="teacher", file="teacher (PyTorch)", examples=360, metric=teacher,
            metric_by_class=_by_class(labels, teacher, 5),
        ),
        Subject(name="student", file="student (PyTorch)", agreement=1.0, max_difference=9.5e-7, **measured),
        Subject(name="onnx", file="student.onnx", agreement=1.0, max_difference=0.0, **measured),
        Subject(
            name="x86_64", file="x86_64/model.so", agreement=1.0, max_difference=1.4e-5, latency_ms=0.0431,
            latency_ratio=0.92, compared=360, differing=0, flash_bytes=41_234, ram_bytes=9_216, **measured,
        ),
        Subject(name="aarch64", file="aarch64/model.so", **arm),
    )  # fmt: skip

    def verdict(requirement: str, asked: str, got: str, file: str, passed: bool) -> Verdict:
        return Verdict(
            requirement=requirement, asked=asked, got=got, file=file, status="passed" if passed else "failed"
        )

    verdicts = [
        verdict("speedup", ">= 2.50x fewer MACs", f"{ratio['speedup']:.3f}x", "student.onnx", True),
        verdict("compression", ">= 2.00x fewer bytes", f"{ratio['compression']:.3f}x", "student.onnx", True),
    ]
    for file, examples in (("student.onnx", 360), ("x86_64/model.so", 360), ("aarch64/model.so", 100)):
        got = f"{drop:+.4f} ({teacher:.4f} -> {student:.4f}, {examples} examples)"
        verdicts.append(verdict("accuracy_drop", "accuracy drop <= 0.0100", got, file, drop <= 0.01))
    for file in ("x86_64/model.so", "aarch64/model.so"):
        got = "100.00% (largest difference 1.4e-05)"
        verdicts.append(verdict("same answers", ">= 99.9% as ONNX Runtime", got, file, True))
    if not arm_measured:
        verdicts = [
            v.model_copy(update={"got": "-", "status": "not measured", "reason": QEMU})
            if v.file.startswith("aarch64")
            else v
            for v in verdicts
        ]
    return Evaluation(
        metric_name="accuracy",
        data=TEST,
        test_digest="7c" * 32,
        teacher_cost=teacher_cost,
        student_cost=student_cost,
        subjects=subjects,
        verdicts=tuple(verdicts),
        nearest_plan=nearest,
        scores=(1.0,) * right + (0.0,) * (360 - right),
        teacher_scores=(1.0,) * 352 + (0.0,) * 8,
    )


def _curve(start: float, end: float, epochs: int, seed: int) -> tuple[float, ...]:
    noise = np.random.default_rng(seed).normal(0, 0.01, epochs)
    fade = np.exp(-np.arange(epochs) / (epochs / 5))
    return tuple(float(v) for v in end + (start - end) * fade + noise * fade)


def records(warnings: tuple[str, ...] = ()) -> dict[str, StageRecord]:
    def training(stage: str, epochs: int, start: float) -> StageRecord:
        curves = {
            "train_loss": _curve(start, 0.55, epochs, 1),
            "val_loss": _curve(start, 0.6, epochs, 2),
            "val_accuracy": _curve(0.4, 0.972, epochs, 3),
        }
        final = {"epochs": float(epochs), "val_accuracy": curves["val_accuracy"][-1]}
        return StageRecord(stage=stage, metrics=final, curves=curves, data=VAL)

    return {
        "data": StageRecord(
            stage="data", metrics={"train_examples": 1149, "val_examples": 288}, data="digits", warnings=warnings
        ),
        "teacher": training("teacher", 30, 2.3),
        "search": StageRecord(stage="search", metrics={"trials": 27, "dense_accuracy": 0.9792}, data=VAL),
        "finetune": training("finetune", 20, 1.4),
    }


def findings(
    *,
    labels: tuple[str, ...] = tuple("0123456789"),
    drop: float = 0.0028,
    arm_measured: bool = True,
    nearest: str | None = None,
    warnings: tuple[str, ...] = (),
    blocks: int = 1,
) -> Findings:
    dense = profile(blocks)
    tried = trials(dense)
    winner = max(tried, key=lambda trial: trial.tuned_score or 0.0)
    return Findings(
        title="resnet8 on digits",
        evaluation=evaluation(dense, winner.plan, labels, drop=drop, arm_measured=arm_measured, nearest=nearest),
        trials=tried,
        winner_index=winner.index,
        records=records(warnings),
        dense_profile=dense,
        plan=winner.plan,
        carried_out=winner.plan,
        request={
            "task": {"name": "digits", "holdout": None, "options": {}},
            "network": {"name": "resnet8", "weights": None, "options": {}},
            "budget": {"speedup": 2.5, "compression": 2.0, "accuracy_drop": 0.01},
            "methods": ["channels"],
            "targets": ["x86_64", "aarch64"],
            "seed": 0,
        },
        facts={
            "ONNX file (sha256)": "3b" * 32,
            "training data (sha256)": "a1" * 32,
            "versions": "pocketpipe 0.1.0, torch 2.13.0, apache-tvm 0.27.0",
        },
        dense_score=0.9792,
        selection=VAL,
    )
