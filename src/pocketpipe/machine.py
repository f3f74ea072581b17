"""What belongs to a machine and never to a configuration: its processes, and what environment variables say.

An empty variable says nothing.

| variable | meaning | default |
|---|---|---|
| POCKETPIPE_DATA | folder with this machine's data sets and weights | `data` of the project |
| POCKETPIPE_OUTPUT | folder for everything that runs write | `data` of the project |
| MLFLOW_TRACKING_URI | MLflow store or server | SQLite file under the output folder |
"""

import contextlib
import hashlib
import os
import platform
from pathlib import Path

from pocketpipe.errors import UserError


def data_root() -> Path:
    """Folder in which tasks look for data sets, and in which relative weight paths lie."""
    return _root("POCKETPIPE_DATA")


def output_root() -> Path:
    """Folder under which all outputs, workspaces and the default MLflow store lie."""
    return _root("POCKETPIPE_OUTPUT")


def _root(variable: str) -> Path:
    """What the variable says, from this folder on; else `data` of the project that this folder is in, or of itself."""
    said = os.environ.get(variable)
    return Path(said).expanduser().absolute() if said else project_root() / "data"


def project_root() -> Path:
    """The project that this folder is in; this folder, where it is in none."""
    here = Path.cwd()
    return next(filter(_is_project, (here, *here.parents)), here)


def _is_project(folder: Path) -> bool:
    """As Kedro tells: commands may be given in any folder below."""
    try:
        return "[tool.kedro]" in (folder / "pyproject.toml").read_text(encoding="utf-8")
    except (OSError, UnicodeError):
        return False


def tracking_uri() -> str:
    """Where MLflow keeps its runs. Raises UserError for an output folder that no such address can name."""
    if named := os.environ.get("MLFLOW_TRACKING_URI"):
        return named
    folder = output_root()
    if "?" in str(folder):
        raise UserError(f"output folder {folder}: SQLite's addresses cannot hold its '?'; choose another name")
    return f"sqlite:///{folder / 'mlflow.db'}"


def artifact_root() -> Path:
    """Where MLflow keeps artefacts when the store is a local file."""
    return output_root() / "mlflow-artifacts"


def processes_known_as() -> str:
    """A short name of what process ids mean here: this boot of this host, and the container. 12 hexadecimal digits."""
    spaces = [platform.node()]
    for place in (Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")):
        with contextlib.suppress(OSError):
            spaces.append(str(place.stat().st_ino) if place.parent.name == "ns" else place.read_text().strip())
    return hashlib.sha256(" ".join(spaces).encode()).hexdigest()[:12]


def runs_here(process: int) -> bool:
    """Whether a process of this host has that id."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
