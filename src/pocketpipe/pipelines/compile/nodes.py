"""Compile the ONNX file for every target."""

import hashlib
from pathlib import Path
from time import perf_counter

from pocketpipe.delivery.metadata import DeliveryMetadata
from pocketpipe.network import NetworkChoice
from pocketpipe.plan import CompressionPlan
from pocketpipe.record import StageRecord
from pocketpipe.targets.base import TARGETS
from pocketpipe.targets.settings import CompileSettings
from pocketpipe.task import Splits, TaskChoice

GOLDEN = 8
"""Examples of the validation split that golden vectors are made of."""


def compile_targets(
    student_onnx: bytes,
    plan: CompressionPlan,
    splits: Splits,
    task_choice: TaskChoice,
    network_choice: NetworkChoice,
    targets: list[str],
    settings: CompileSettings,
    data_root: Path,
    workspace: Path,
) -> tuple[Path, StageRecord]:
    """(folder with one delivery folder a target, record)."""
    task = task_choice.build(data_root)
    metrics: dict[str, float] = {}
    for name in targets:
        started = perf_counter()
        metadata = DeliveryMetadata(
            task=task_choice.name,
            network=network_choice.name,
            target=name,
            input_shape=task.input_shape,
            input_dtype=str(splits.train.inputs.dtype),
            preprocessing=task.preprocessing,
            labels=task.labels,
            threads=settings.threads,
            hashes={
                "onnx": hashlib.sha256(student_onnx).hexdigest(),
                "plan": hashlib.sha256(plan.to_json().encode()).hexdigest(),
                "train_data": splits.train.digest,
            },
        )
        folder = workspace / "deliveries" / _folder_name(name)
        if not folder.exists():  # a delivery folder appears whole or not at all: an interrupted stage goes on
            TARGETS.resolve(name).compile(student_onnx, metadata, folder, splits.val.inputs[:GOLDEN])
        metrics[f"{name}_bytes"] = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        metrics[f"{name}_seconds"] = perf_counter() - started
    return workspace / "deliveries", StageRecord(stage="compile", metrics=metrics, data="student.onnx")


def _folder_name(target: str) -> str:
    return target.replace(":", ".")
