"""Datasets that know whether they are fresh: what they hold lies under a key of its fingerprint.

`exists()` answers "there *and* made from these inputs, parameters and code", which makes Kedro's own
`--only-missing-outputs` right. The fingerprint is handed over by `pocketpipe.hooks` before a run.
"""

import json
import shutil
from abc import abstractmethod
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

from kedro.io import AbstractDataset, DatasetError
from kedro.utils import load_obj

from pocketpipe.errors import UserError, first_line
from pocketpipe.lineage.provenance import FILE_NAME, Provenance, read_provenance, write_provenance
from pocketpipe.storage import appearing_whole, replacing, write_json

FILES = "files.json"
"""In each value's folder: the files that were written, with their sizes."""
T = TypeVar("T")


class FreshDataset(AbstractDataset[T, T], Generic[T]):
    """A folder `<folder>/<fingerprint>/` that appears whole or not at all; `<folder>/latest` points at the newest."""

    def __init__(self, folder: str, metadata: dict[str, Any] | None = None) -> None:
        self.folder = Path(folder)
        self.fingerprint: str | None = None
        self.provenance: Provenance | None = None
        """Of what will be saved."""
        self.outdated: Provenance | None = None
        """Of a value that counts as absent and is to be replaced: what it was made from is there no more."""
        self.metadata = metadata

    @property
    def path(self) -> Path:
        """Where the value for the present fingerprint lies."""
        if self.fingerprint is None:
            raise DatasetError(f"{self.folder.name} has no fingerprint yet: it is set when a pipeline run starts")
        return self.folder / self.fingerprint

    @property
    def latest(self) -> Path:
        """The readable name of the newest value."""
        return self.folder / "latest"

    def stored_provenance(self) -> Provenance | None:
        """Of what is stored; None where nothing is, or nothing tells."""
        return read_provenance(self.path) if (self.path / FILE_NAME).is_file() else None

    def load(self) -> T:
        """The value. Raises UserError, which Kedro wraps, if it was not made yet."""
        if not self._exists():
            raise UserError(f"{self.folder.name} is not there yet: run the stage that makes it first")
        try:
            return self._read(self.path)
        except (OSError, ValueError) as error:
            raise UserError(f"{self.path}: damaged ({first_line(error)}); delete this folder and run again") from error

    def save(self, data: T) -> None:
        """Write it; readers never see half of it. Raises UserError, which Kedro wraps, where that is not possible."""
        try:
            if self._exists():  # another run was quicker
                self.point_latest()
                return
            replaced = self.outdated is not None or self.path.is_dir()  # outdated, or some of its files are gone
            with appearing_whole(self.path, first_wins=not replaced) as scratch:
                self._write(data, scratch)
                write_json(scratch / FILES, _sizes(scratch))
                if self.provenance is not None:
                    made_now = self.provenance.model_copy(update={"when": datetime.now(UTC).replace(microsecond=0)})
                    write_provenance(scratch, made_now)
            self.point_latest()
        except OSError as error:
            raise UserError(f"cannot write {self.folder.name} under {self.folder}: {error}") from error

    def point_latest(self) -> None:
        """Let the readable name `latest` point at the present fingerprint."""
        if self.latest.is_dir() and not self.latest.is_symlink():
            shutil.rmtree(self.latest)  # of a copy that followed links: scp, zip
        with replacing(self.latest) as link:
            link.unlink(missing_ok=True)
            link.symlink_to(self.path.name)

    def _exists(self) -> bool:
        if self.fingerprint is None or not self.path.is_dir() or self._is_damaged():
            return False
        return self.outdated is None or self.outdated != self.stored_provenance()

    def _is_damaged(self) -> bool:
        """Whether files that were written are gone, or of another size: somebody tidied up, a copy was cut short."""
        try:
            written = json.loads((self.path / FILES).read_bytes())
        except FileNotFoundError:  # of a version that kept no list
            return False
        except ValueError:
            return True
        found = _sizes(self.path)
        return any(found.get(name) != size for name, size in written.items())

    def _describe(self) -> dict[str, Any]:
        return {"folder": str(self.folder), "fingerprint": self.fingerprint}

    @abstractmethod
    def _write(self, data: T, folder: Path) -> None: ...

    @abstractmethod
    def _read(self, folder: Path) -> T: ...


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of each file in the folder, by its name within."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {file.relative_to(folder).as_posix(): file.stat().st_size for file in files}


class JsonDataset(FreshDataset[Any]):
    """A pydantic value, or a list of them, as one JSON file. `value` names the class as package.module:Class."""

    def __init__(self, folder: str, value: str, metadata: dict[str, Any] | None = None) -> None:
        super().__init__(folder, metadata)
        self.value = value

    def _write(self, data: Any, folder: Path) -> None:
        many = isinstance(data, list)
        items = [item.model_dump(mode="json") for item in data] if many else data.model_dump(mode="json")
        write_json(folder / "value.json", items, sort_keys=False)  # classes and stages have an order

    def _read(self, folder: Path) -> Any:
        value_class = load_obj(self.value.replace(":", "."))
        content = json.loads((folder / "value.json").read_text())
        if isinstance(content, list):
            return [value_class.model_validate(item) for item in content]
        return value_class.model_validate(content)


class TextDataset(FreshDataset[str]):
    """Text as one file of the given name. (`filename` would be made a path of the project by Kedro.)"""

    def __init__(self, folder: str, file: str, metadata: dict[str, Any] | None = None) -> None:
        super().__init__(folder, metadata)
        self.file = file

    def _write(self, data: str, folder: Path) -> None:
        (folder / self.file).write_text(data, encoding="utf-8")

    def _read(self, folder: Path) -> str:
        return (folder / self.file).read_text(encoding="utf-8")


class BytesDataset(FreshDataset[bytes]):
    """Bytes as one file of the given name (an ONNX file)."""

    def __init__(self, folder: str, file: str, metadata: dict[str, Any] | None = None) -> None:
        super().__init__(folder, metadata)
        self.file = file

    def _write(self, data: bytes, folder: Path) -> None:
        (folder / self.file).write_bytes(data)

    def _read(self, folder: Path) -> bytes:
        return (folder / self.file).read_bytes()


class FolderDataset(FreshDataset[Path]):
    """A folder of files: saved by copying the folder that a node returns, loaded as its path."""

    def _write(self, data: Path, folder: Path) -> None:
        shutil.copytree(data, folder / "content", ignore=shutil.ignore_patterns(".*.partial"))

    def _read(self, folder: Path) -> Path:
        return folder / "content"
