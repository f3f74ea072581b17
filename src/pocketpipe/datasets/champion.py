"""Datasets for the model registry: the champion as an input, and the registry itself for the promote stage."""

import logging
from abc import abstractmethod
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
from pocketpipe.tracking.opening import RegistryOfRun, open_registry
from pocketpipe.tracking.packages import CONTENT
from pocketpipe.tracking.registry import Registered

log = logging.getLogger(__name__)


class RegistryDataset(SourceDataset):
    """Handed to the promote stage; which run and request it is for is said by the hooks before a run."""

    def __init__(self, metadata: dict[str, Any] | None = None) -> None:
        super().__init__(metadata)
        self.run: RegistryOfRun | None = None

    def look_up(self, config: Config) -> str:
        return ""  # what is in the registry does not make a promotion stale (what is not in it, the hooks forget)

    def load(self) -> RegistryOfRun:
        if self.run is None:
            raise DatasetError("the registry is opened when a pipeline run starts")
        return self.run


class _OfTheChampion(SourceDataset):
    """What a run takes of the champion of the configured task and network, if there is one that suits it.

    `load` gives what `look_up` found, or None; it raises DatasetError if nothing was looked up before.
    """

    def __init__(self, metadata: dict[str, Any] | None = None) -> None:
        super().__init__(metadata)
        self._looked_up = False
        self._registered: Registered | None = None

    @abstractmethod
    def suits(self, champion: Registered, config: Config) -> bool:
        """Whether it is good for what it is looked up for."""

    def look_up(self, config: Config) -> str:
        champion = open_registry().champion(config.registered_name)
        self._registered = champion if champion is not None and self.suits(champion, config) else None
        self._looked_up = True
        return "none" if self._registered is None else self._registered.tags[CONTENT]

    @property
    def registered(self) -> Registered | None:
        """What was found."""
        if not self._looked_up:
            raise DatasetError("the champion is looked up when a pipeline run starts")
        return self._registered


class ChampionDataset(_OfTheChampion):
    """The champion to start from, or None where there is none yet, or none that is a start."""

    def suits(self, champion: Registered, config: Config) -> bool:
        reason = no_start(champion, config)
        if reason is not None:
            log.warning("warning: champion version %s %s: it is no start for this retraining", champion.version, reason)
        return reason is None

    def load(self) -> Champion | None:
        found = self.registered
        return None if found is None else Champion.load(found.folder)


class YardstickDataset(_OfTheChampion):
    """The champion to compare with, also where it is no start; None where it reads or answers something else."""

    def suits(self, champion: Registered, config: Config) -> bool:
        task = config.task.build(machine.data_root())
        return champion.evaluation.answers_as(task.labels) and _reads(champion.folder, task)

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
