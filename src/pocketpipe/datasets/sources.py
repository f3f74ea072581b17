"""Datasets for what comes from outside a run. Each is looked up before it is loaded, which says what it would bring."""

from abc import abstractmethod
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset, DatasetError

from pocketpipe import machine
from pocketpipe.config import Config
from pocketpipe.hashing import file_digest


class SourceDataset(AbstractDataset[Any, Any]):
    """An input that no stage makes."""

    def __init__(self, metadata: dict[str, Any] | None = None) -> None:
        self.metadata = metadata

    @abstractmethod
    def look_up(self, config: Config) -> str:
        """Find what is to be loaded under this configuration; its digest, which changes when the content does."""

    def save(self, data: Any) -> None:
        """Refused: sources are not written by a run."""
        raise DatasetError(f"{type(self).__name__} cannot be saved to")

    def _describe(self) -> dict[str, Any]:
        return {}


class DataRoot(SourceDataset):
    """The folder with this machine's data sets; its digest is that of the task's data."""

    def look_up(self, config: Config) -> str:
        return config.task.build(machine.data_root()).source_digest()

    def load(self) -> Path:
        return machine.data_root()


class GivenWeights(SourceDataset):
    """The folder from which relative weight paths count; its digest is that of the weights file, if one is named."""

    def look_up(self, config: Config) -> str:
        weights = config.network.weights_path(machine.data_root())
        return "none" if weights is None else file_digest(weights)

    def load(self) -> Path:
        return machine.data_root()


class Workspace(AbstractDataset[Any, Path]):
    """A folder in which a stage keeps what it needs to go on after a crash: one for each fingerprint of the stage."""

    def __init__(self, folder: str, metadata: dict[str, Any] | None = None) -> None:
        self.folder = Path(folder)
        self.fingerprint: str | None = None
        self.metadata = metadata

    def load(self) -> Path:
        if self.fingerprint is None:
            raise DatasetError(f"{self.folder.name} has no fingerprint yet: it is set when a pipeline run starts")
        path = self.folder / self.fingerprint
        path.mkdir(parents=True, exist_ok=True)
        return path

    def save(self, data: Any) -> None:
        raise DatasetError("a workspace is written by its stage, not by the catalog")

    def _exists(self) -> bool:
        return True

    def _describe(self) -> dict[str, Any]:
        return {"folder": str(self.folder)}


class KeptFolder(AbstractDataset[Any, Path]):
    """A folder that outlives the fingerprints of the stages that use it: what is in it saves work, and decides nothing
    that a fingerprint promises.
    """

    def __init__(self, folder: str, metadata: dict[str, Any] | None = None) -> None:
        self.folder = Path(folder)
        self.metadata = metadata

    def load(self) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder

    def save(self, data: Any) -> None:
        raise DatasetError("a kept folder is written by its stage, not by the catalog")

    def _exists(self) -> bool:
        return True

    def _describe(self) -> dict[str, Any]:
        return {"folder": str(self.folder)}
