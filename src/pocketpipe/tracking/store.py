"""Store: where MLflow keeps runs and models. Opened quietly, and by several processes at once."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlparse

from filelock import FileLock

from pocketpipe import machine
from pocketpipe.errors import UserError, first_line

if TYPE_CHECKING:
    from mlflow import MlflowClient

SQLITE = "sqlite:///"

NOT_KEPT = ("file:", "mlruns")
"""MLflow itself refuses to keep runs as plain files since 3.10."""

RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"

EXPERIMENT = "pocketpipe"
"""Where all runs are."""
EXPERIMENT_NOTE = """One row is one run of a pipeline; its arrow opens the stages, and that of `search` the trials.

A run's description says whether the budget was kept, on which file each verdict was measured, what it cost and on
which data. Worth a column: the tags `budget_kept`, `promotion`, `error`; the metrics `speedup`, `compression`.
"""


@dataclass(frozen=True)
class Store:
    """An open MLflow store and the experiment in it that runs are kept under."""

    uri: str
    experiment_id: str
    client: MlflowClient

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Held by one process at a time where the store is a local file.

        A server orders its requests, and knows nothing of several that belong together: docs/scheduling.md.
        """
        with _creation_lock(self.uri):
            yield


def open_store(uri: str, artifacts: Path, experiment: str) -> Store:
    """Open (and at first make) the store at `uri` with its experiment.

    `uri` is `sqlite:///ABSOLUTE`, another database's, or a server's `http(s)://`; a server decides itself where its
    artefacts lie, so that `artifacts` counts only for the others. Raises UserError if the store cannot be opened.
    """
    _check(uri)
    client_class = _quiet_client_class()
    try:
        with _soon_given_up(), _creation_lock(uri):
            if uri.startswith(SQLITE):
                _make_database(Path(uri.removeprefix(SQLITE)), client_class)
            client = client_class(tracking_uri=uri, registry_uri=uri)
            experiment_id = _experiment(client, experiment, None if is_server(uri) else artifacts)
    except UserError:
        raise
    except Exception as error:  # SQLAlchemy, requests and MLflow have no base in common
        raise UserError(f"MLFLOW_TRACKING_URI {shown(uri)!r}: cannot be opened: {shown(first_line(error))}") from error
    return Store(uri, experiment_id, client)


def shown(uri: str) -> str:
    """An address, or a text with one, without a password.

    >>> shown("postgresql://me:secret@db/mlflow"), shown("sqlite:////data/mlflow.db")
    ('postgresql://***@db/mlflow', 'sqlite:////data/mlflow.db')
    """
    return re.sub(r"//\S*@", "//***@", uri)


def _check(uri: str) -> None:
    if uri.startswith(NOT_KEPT) or "://" not in uri:
        raise UserError(
            f"MLFLOW_TRACKING_URI {shown(uri)!r}: MLflow keeps no runs in plain files; "
            "use sqlite:////absolute/path.db or http://host:port"
        )
    if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).is_absolute():
        raise UserError(
            f"MLFLOW_TRACKING_URI {shown(uri)!r}: the path must be absolute (four slashes), "
            "or each folder has its own store"
        )


def is_server(uri: str) -> bool:
    """Whether `uri` is the address of an MLflow server."""
    return uri.startswith(("http://", "https://"))


@contextmanager
def _creation_lock(uri: str) -> Iterator[None]:
    """MLflow creates tables without a lock of its own: two processes at once would leave half of them."""
    if not uri.startswith(SQLITE):
        yield
        return
    path = Path(uri.removeprefix(SQLITE))
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        yield


def _make_database(path: Path, client_class: type[MlflowClient]) -> None:
    """Make the tables beside their place, then move them there: killed half way, MLflow could not go on with them."""
    if path.exists():
        return
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        client_class(tracking_uri=f"{SQLITE}{scratch}").search_experiments()
        scratch.rename(path)
    finally:
        scratch.unlink(missing_ok=True)


def _quiet_client_class() -> type[MlflowClient]:
    """MLflow's client, imported now (a second), without telemetry and without its notices."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["DO_NOT_TRACK"] = "1"
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient


SERVERS_ERRORS = (("mlflow", "MlflowException"), ("mlflow", "RestException"), ("requests", "HTTPError"))
"""By package and name; the last one is how artefacts are refused."""


def denied_by_server(error: BaseException) -> str | None:
    """What a person is told of an MLflow server that refuses or is gone; None for any other error."""
    kind = (type(error).__module__.partition(".")[0], type(error).__name__)
    if kind not in SERVERS_ERRORS or not is_server(machine.tracking_uri()):
        return None
    return f"MLFLOW_TRACKING_URI {shown(machine.tracking_uri())!r}: {shown(first_line(error))}"


@contextmanager
def _soon_given_up() -> Iterator[None]:
    """A missing server costs seconds when a store is opened; one that is away for minutes later ends no run."""
    if RETRIES in os.environ:
        yield
        return
    os.environ[RETRIES] = "3"
    try:
        yield
    finally:
        del os.environ[RETRIES]


def local_path(uri: str) -> Path:
    """The path that a `file:` address names, or that is given as it is."""
    parts = urlparse(uri)
    return Path(unquote(parts.path)) if parts.scheme == "file" else Path(uri)


def _refuse_moved(kept: Path, artifacts: Path) -> None:
    """MLflow keeps absolute addresses, and would make the folders anew where they were."""
    if kept != artifacts and not kept.parent.is_dir():
        raise UserError(
            f"the MLflow store keeps its files in {kept}, which is gone: was the folder moved? It finds them by a "
            f"link: mkdir -p {quote(str(kept.parent))} && ln -s {quote(str(artifacts))} {quote(str(kept))}"
        )


def _experiment(client: MlflowClient, name: str, artifacts: Path | None) -> str:
    from mlflow.exceptions import MlflowException

    known = client.get_experiment_by_name(name)
    if known is None:
        location = None if artifacts is None else artifacts.absolute().as_uri()
        # the kind keeps MLflow's page from asking whether this is about language models
        tags = {"mlflow.note.content": EXPERIMENT_NOTE, "mlflow.experimentKind": "custom_model_development"}
        try:
            return client.create_experiment(name, artifact_location=location, tags=tags)
        except MlflowException:
            known = client.get_experiment_by_name(name)  # another process was quicker
            if known is None:
                raise
    if artifacts is not None and urlparse(known.artifact_location).scheme in ("", "file"):
        _refuse_moved(local_path(known.artifact_location), artifacts.absolute())
    if known.lifecycle_stage != "active":
        raise UserError(
            f"MLflow experiment {name!r} was deleted; to have it again: MLFLOW_TRACKING_URI="
            f"{quote(shown(client.tracking_uri))} .venv/bin/mlflow experiments restore "
            f"--experiment-id {known.experiment_id}"
        )
    return str(known.experiment_id)
