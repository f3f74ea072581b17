"""Compile the ONNX file for every target."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import perf_counter

from pocketpipe.delivery.folder import MEASURED, README, folder_name
from pocketpipe.delivery.metadata import DeliveryMetadata
from pocketpipe.delivery.readme import with_measured
from pocketpipe.network import NetworkChoice
from pocketpipe.plan import CompressionPlan
from pocketpipe.record import StageRecord
from pocketpipe.storage import remove_whole, replacing, write_json
from pocketpipe.targets.base import TARGETS, Target
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
    tuning_records: Path,
    workspace: Path,
) -> tuple[Path, StageRecord]:
    """(folder with one delivery folder a target, record)."""
    task = task_choice.build(data_root)
    metrics: dict[str, float] = {}
    warnings: list[str] = []
    for name in targets:
        target = TARGETS.resolve(name)
        metadata = DeliveryMetadata(
            task=task_choice.name,
            network=network_choice.name,
            target=name,
            input_shape=task.input_shape,
            input_dtype=str(splits.train.inputs.dtype),
            preprocessing=task.preprocessing,
            labels=task.labels,
            threads=settings.threads_of(target),
            hashes={
                "onnx": hashlib.sha256(student_onnx).hexdigest(),
                "plan": hashlib.sha256(plan.to_json().encode()).hexdigest(),
                "train_data": splits.train.digest,
            },
        )
        folder = workspace / "deliveries" / folder_name(name)
        warnings += untuned(name, settings)
        if not _is_of(folder, metadata):  # it appears whole or not at all: an interrupted stage goes on
            remove_whole(folder)
            _told(folder).unlink(missing_ok=True)
            started = perf_counter()
            found: Mapping[str, float] = {}
            if settings.tune is not None and target.untunable() is None:
                found = target.compile_tuned(
                    student_onnx, metadata, folder, settings.tune, tuning_records, splits.val.inputs[:GOLDEN]
                )
            else:
                target.compile(student_onnx, metadata, folder, splits.val.inputs[:GOLDEN])
            write_json(_told(folder), {**found, "seconds": perf_counter() - started})
        figures = _read(_told(folder)) | _measured(target, folder)
        figures["bytes"] = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        metrics |= {f"{name}_{figure}": value for figure, value in figures.items()}
    return workspace / "deliveries", StageRecord(
        stage="compile", metrics=metrics, warnings=tuple(warnings), data="student.onnx"
    )


def _is_of(folder: Path, metadata: DeliveryMetadata) -> bool:
    """Whether the folder holds what was compiled of these very sources: a training made again may have others."""
    return folder.exists() and metadata.hashes.items() <= DeliveryMetadata.read(folder).hashes.items()


def _measured(target: Target, folder: Path) -> dict[str, float]:
    """What one example takes here, kept beside the delivery."""
    file = folder / MEASURED
    if not file.exists() and (measured := target.measured(folder)):
        write_measured(folder, measured)
    return _read(file)


def _told(folder: Path) -> Path:
    """Where what compiling a delivery told is kept, so that a stage that goes on after a crash tells it, too."""
    return folder.parent.parent / f"{folder.name}.json"


def _read(figures: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads(figures.read_text()) if figures.exists() else {}
    return found


def write_measured(folder: Path, figures: Mapping[str, float]) -> None:
    """What one example took where this was compiled: in the README, if there is one, and then for programs."""
    readme = folder / README
    if readme.is_file():
        with replacing(readme) as whole:
            whole.write_text(with_measured(readme.read_text(), figures))
    write_json(folder / MEASURED, dict(figures))


def untuned(name: str, settings: CompileSettings) -> Iterator[str]:
    """A line if tuning was asked for, and the target cannot be tuned here."""
    reason = None if settings.tune is None else TARGETS.resolve(name).untunable()
    if reason is not None:
        yield f"compile.tune: {name} {reason}; its schedules are by rule"
