"""Provenance: what one output was made from, by what, and when; told beside the output, never inside it.

Outputs are compared by hash, so whatever differs from run to run (times, run ids, versions of the machine) is
written to `provenance.json` in the output's folder.
"""

import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from pocketpipe.doors import Value, describe_validation
from pocketpipe.errors import UserError
from pocketpipe.lineage.fingerprint import engine_versions
from pocketpipe.storage import replacing

FILE_NAME = "provenance.json"


class Commit(Value):
    """State of a git work tree."""

    hash: str
    dirty: bool
    """Tracked files differed from the commit."""

    def __str__(self) -> str:
        return f"{self.hash[:12]}{' with uncommitted changes' if self.dirty else ''}"


class Provenance(Value):
    """Where one output comes from."""

    fingerprint: str
    """Of the output: the name of its folder."""
    inputs: dict[str, str] = {}
    """Fingerprint (or, of what comes from outside, digest) of each input, by its name in the catalog."""
    input_runs: dict[str, str] = {}
    """The run that had made each input: made again by another, it may have other bytes under the same fingerprint."""
    stage: str = ""
    parameters: dict[str, str] = {}
    """The stage's parameters, as they went into the fingerprint."""
    modules: tuple[str, ...] = ()
    """The modules that the code digest covers."""
    code: str = ""
    """Digest of their sources."""
    engines: dict[str, str] = {}
    """Versions of the engines that took part."""
    when: datetime
    run: str | None = None
    """Id of the tracking run that made it."""
    commit: Commit | None = None
    """None: the project is not under git."""
    python: str
    platform: str


def provenance_now(
    *,
    fingerprint: str,
    inputs: Mapping[str, str],
    stage: str = "",
    parameters: Mapping[str, str] | None = None,
    modules: Iterable[str] = (),
    code: str = "",
    engines: Iterable[str] = (),
    run: str | None = None,
    commit: Commit | None = None,
) -> Provenance:
    """Provenance of what is being made now, here, by code at `commit`."""
    return Provenance(
        fingerprint=fingerprint,
        inputs=dict(inputs),
        stage=stage,
        parameters=dict(parameters or {}),
        modules=tuple(modules),
        code=code,
        engines=engine_versions(engines),
        when=datetime.now(UTC).replace(microsecond=0),
        run=run,
        commit=commit,
        python=platform.python_version(),
        platform=f"{sys.platform} {platform.machine()}",  # no host name: files travel
    )


def git_commit(project: Path) -> Commit | None:
    """Commit of the work tree that `project` lies in, or None where there is none, or no git."""
    head = _git(project, "rev-parse", "HEAD")
    if head is None:
        return None
    changes = _git(project, "status", "--porcelain", "--untracked-files=no")
    return Commit(hash=head.strip(), dirty=bool(changes))


def write_provenance(folder: Path, provenance: Provenance) -> None:
    """Write `provenance.json` into `folder`, whole or not at all."""
    with replacing(folder / FILE_NAME) as scratch:
        scratch.write_text(provenance.model_dump_json(indent=2) + "\n")


def read_provenance(folder: Path) -> Provenance:
    """Read what `write_provenance` wrote. Raises UserError if it is missing or broken."""
    path = folder / FILE_NAME
    try:
        return Provenance.model_validate_json(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f"{folder}: no {FILE_NAME}, so nothing tells what it was made from") from error
    except ValidationError as error:
        raise UserError(f"{path}: {'; '.join(describe_validation(error, where=''))}") from error


def _git(project: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=project, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
