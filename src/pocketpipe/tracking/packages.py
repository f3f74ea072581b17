"""Packages: the files of a registered version, where they lie, and what tells them from those of another."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlparse

from pydantic import ValidationError

from pocketpipe.champion import EVALUATION, REPORT
from pocketpipe.delivery.folder import WITH_TIMES
from pocketpipe.errors import UserError
from pocketpipe.evaluation import Evaluation
from pocketpipe.hashing import file_digest
from pocketpipe.storage import appearing_whole
from pocketpipe.tracking.store import Store, local_path

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

PACKAGE = "package"
"""Folder of a version's files among the artefacts of the run that made it."""
CONTENT = "content_sha256"
"""Tag: digest of the files and what was measured of them, which makes a version."""
TIMED = ("latency_ms",)
"""Requirements that are times."""
OF_THIS_RUN = (*WITH_TIMES, REPORT, EVALUATION)
"""Names of files that hold times."""


class Packages:
    """Files of versions: a server's are kept in `downloads`, those of a local store stay in place."""

    def __init__(self, store: Store, downloads: Path) -> None:
        self._store = store
        self._downloads = downloads

    def evaluation(self, version: ModelVersion) -> Evaluation:
        """What was measured of a version; of a server's, no other file is fetched."""
        source = self._source(version)
        if _is_local(source):
            return read_evaluation(self.folder(version) / EVALUATION, version)
        with tempfile.TemporaryDirectory() as scratch:
            return read_evaluation(self._fetched(f"{source}/{EVALUATION}", Path(scratch)), version)

    def _source(self, version: ModelVersion) -> str:
        return self._store.client.get_model_version_download_uri(version.name, version.version)

    def folder(self, version: ModelVersion) -> Path:
        """Its files on this machine; a server's are fetched once. Raises UserError if they are gone."""
        source = self._source(version)
        folder = local_path(source) if _is_local(source) else self._downloaded(source, self._download_of(version))
        if not (folder / EVALUATION).is_file():
            raise UserError(
                f"{version.name!r} version {version.version}: its files are gone ({source}); "
                "restore them, or name another champion with: pocketpipe rollback"
            )
        return folder

    def _download_of(self, version: ModelVersion) -> Path:
        content = version.tags.get(CONTENT, "")[:12]  # another server's version of that number has other files
        return self._downloads / version.name / f"{version.version}-{content}"

    def _downloaded(self, source: str, folder: Path) -> Path:
        if folder.is_dir():
            return folder
        with appearing_whole(folder, first_wins=True) as scratch:
            made = self._fetched(source, scratch)
            for file in list(made.iterdir()):  # in a folder of the artefact's own name
                file.rename(scratch / file.name)
            made.rmdir()
        return folder

    def _fetched(self, source: str, folder: Path) -> Path:
        import mlflow.artifacts

        uri = self._store.uri
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=source, dst_path=str(folder), tracking_uri=uri))

    def forget(self, version: ModelVersion) -> None:
        """What was fetched of it: it is written anew."""
        shutil.rmtree(self._download_of(version), ignore_errors=True)


def _is_local(source: str) -> bool:
    return urlparse(source).scheme in ("", "file")


def read_evaluation(file: Path, version: ModelVersion) -> Evaluation:
    """What was measured of a version. Raises UserError for what another pocketpipe wrote in another form."""
    try:
        return Evaluation.model_validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            f"{version.name!r} version {version.version}: this pocketpipe cannot read its {EVALUATION} "
            f"({'.'.join(map(str, first['loc']))}: {first['msg']}); was it registered by a newer one?"
        ) from error


def content_digest(folder: Path, evaluation: Evaluation) -> str:
    """Of the files and what was measured, but for times: the same student is the same version on a slower day."""
    lasting = tuple(verdict for verdict in evaluation.verdicts if verdict.requirement not in TIMED)
    untimed = evaluation.model_copy(update={"subjects": (), "verdicts": lasting})
    return files_digest(folder, untimed.model_dump_json().encode())


def files_digest(folder: Path, measured: bytes = b"") -> str:
    """Of the files, but for those with times, and of what was measured, if it is given."""
    digest = hashlib.sha256(measured)
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in OF_THIS_RUN):
        digest.update(f"{path.relative_to(folder).as_posix()}\0".encode())
        digest.update(bytes.fromhex(file_digest(path)))
    return digest.hexdigest()
