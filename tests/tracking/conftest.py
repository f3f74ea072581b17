"""A store for each test: a copy of the empty one."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pocketpipe.cost import Cost
from pocketpipe.evaluation import Evaluation, Subject
from pocketpipe.tracking.store import Store, open_store
from pocketpipe.verdict import Verdict


@pytest.fixture
def store(empty_database: Path, tmp_path: Path) -> Store:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return open_store(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "artifacts", "pocketpipe")


@pytest.fixture
def evaluation() -> Callable[..., Evaluation]:
    """Evaluations that differ in what a test names."""

    def build(**changes: object) -> Evaluation:
        values = {
            "metric_name": "accuracy",
            "data": "test, 4 of 1,797 digits, seed 0",
            "test_digest": "7e57",
            "teacher_cost": Cost(macs=1000, parameters=100, file_bytes=500, source="measured on teacher.onnx"),
            "student_cost": Cost(macs=400, parameters=40, file_bytes=200, source="measured on student.onnx"),
            "subjects": (
                Subject(name="teacher", file="teacher (PyTorch)", examples=4, metric=1.0),
                Subject(name="onnx", file="student.onnx", examples=4, metric=0.75, latency_ms=0.2),
            ),
            "verdicts": (_verdict("speedup", "passed"),),
            "scores": (1.0, 1.0, 1.0, 0.0),
        }
        return Evaluation.model_validate(values | changes)

    return build


@pytest.fixture
def verdict() -> Callable[..., Verdict]:
    return _verdict


def _verdict(requirement: str, status: str, reason: str | None = None) -> Verdict:
    return Verdict.model_validate(
        {
            "requirement": requirement,
            "asked": ">= 2.00x MACs",
            "got": "2.50x",
            "file": "student.onnx",
            "status": status,
            "reason": reason,
        }
    )
