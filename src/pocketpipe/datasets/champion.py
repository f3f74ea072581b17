"""Datasets for the model registry: the champion as an input, and the registry itself for the promote stage."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kedro.io import DatasetError

from pocketpipe import machine
from pocketpipe.champion import DELIVERIES, ONNX, Champion, Yardstick
from pocketpipe.config import Config
from pocketpipe.datasets.sources import SourceDataset
from pocketpipe.delivery.metadata import read_by
from pocketpipe.errors import first_line
from pocketpipe.task import Task
from pocketpipe.tracking.entries import text
from pocketpipe.tracking.gates import LONGEST_LIST
from pocketpipe.tracking.registry import CONTENT, Registered, Registry
from pocketpipe.tracking.store import EXPERIMENT, open_store

log = logging.getLogger(__name__)


def open_registry() -> Registry:
    """The registry of this machine's MLflow store."""
    store = open_store(machine.tracking_uri(), machine.artifact_root(), EXPERIMENT)
    return Registry(store, machine.output_root() / "workspaces" / "downloads")


@dataclass(frozen=True)
class RegistryOfRun:
    """The registry, and for which run and request something is to be registered."""

    registry: Registry
    model: str
    """Name of the registered model."""
    run_id: str
    request: str
    """Fingerprint of parameters and data: a retraining with the same one has nothing to do."""
    beside: Registered | None = None
    """The champion that the run was evaluated beside, in a retraining."""


class RegistryDataset(SourceDataset):
    """Handed to the promote stage; which run and request it is for is said by the hooks before a run."""

    def __init__(self, metadata: dict[str, Any] | None = None) -> None:
        super().__init__(metadata)
        self.run: RegistryOfRun | None = None

    def digest(self, config: Config) -> str:
        return ""  # what is in the registry does not make a promotion stale (what is not in it, the hooks forget)

    def load(self) -> RegistryOfRun:
        if self.run is None:
            raise DatasetError("the registry is opened when a pipeline run starts")
        return self.run


class ChampionDataset(SourceDataset):
    """The champion of the configured task and network, or None where there is none yet."""

    def __init__(self, metadata: dict[str, Any] | None = None) -> None:
        super().__init__(metadata)
        self.registered: Registered | None = None

    def digest(self, config: Config) -> str:
        self.registered = open_registry().champion(config.registered_name)
        reason = None if self.registered is None else no_start(self.registered, config)
        if self.registered is not None and reason is not None:
            log.warning(
                "warning: champion version %s %s: it is no start for this retraining", self.registered.version, reason
            )
            self.registered = None
        return "none" if self.registered is None else self.registered.tags[CONTENT]

    def load(self) -> Champion | None:
        return None if self.registered is None else Champion.load(self.registered.folder)


class YardstickDataset(SourceDataset):
    """The champion to compare with, also where it is no start; None where it reads or answers something else."""

    def __init__(self, metadata: dict[str, Any] | None = None) -> None:
        super().__init__(metadata)
        self.registered: Registered | None = None

    def digest(self, config: Config) -> str:
        found, task = open_registry().champion(config.registered_name), config.task.build(machine.data_root())
        same = found is not None and found.evaluation.answers_as(task.labels) and _reads(found.folder, task)
        self.registered = found if same else None
        return "none" if self.registered is None else self.registered.tags[CONTENT]

    def load(self) -> Yardstick | None:
        found = self.registered
        return None if found is None else Yardstick((found.folder / ONNX).read_bytes(), found.evaluation)


def _reads(folder: Path, task: Task) -> bool:
    """Whether its deliveries were made for such examples."""
    return read_by(folder / DELIVERIES) in ([], [(task.input_shape, task.preprocessing)])


def no_start(registered: Registered, config: Config) -> str | None:
    """Why a champion cannot be gone on from: its outputs mean something else, or it is another network."""
    task = config.task.build(machine.data_root())
    if not registered.evaluation.answers_as(task.labels):
        known, asked = (text(", ".join(each), LONGEST_LIST) for each in (registered.evaluation.classes, task.labels))
        return f"answers with {known}, the data has {asked}"
    try:
        teacher = Champion.load(registered.folder).teacher
    except Exception as error:  # a step of its plan is the user's, and no longer what it was
        return f"cannot be read any more ({first_line(error)})"
    if (teacher.reference, teacher.options) != (config.network.name, config.network.options):
        return f"is a {teacher.reference}{teacher.options or ''}, not the network of this recipe"
    try:
        teacher.build(task)
    except Exception as error:  # its code is the user's, and no longer what it was
        return f"does not fit the network as it is now ({first_line(error)})"
    return None
