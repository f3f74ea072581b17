"""Where a machine's files lie by default."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pocketpipe import machine
from pocketpipe.errors import UserError


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("POCKETPIPE_DATA", "POCKETPIPE_OUTPUT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(variable, raising=False)


def test_by_default_in_the_project_from_any_folder_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a run that is started in a subfolder trains everything again, and has a registry of its own."""
    below = tmp_path / "notebooks" / "deep"
    below.mkdir(parents=True)
    (tmp_path / "notebooks" / "pyproject.toml").write_text("[project]\nname = 'of another kind'\n")
    (tmp_path / "pyproject.toml").write_text("[tool.kedro]\npackage_name = 'pocketpipe'\n")
    monkeypatch.chdir(below)
    assert machine.data_root() == machine.output_root() == tmp_path / "data"
    assert machine.tracking_uri() == f"sqlite:///{tmp_path}/data/mlflow.db"


def test_a_folder_that_no_address_can_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POCKETPIPE_OUTPUT", str(tmp_path / "what?"))
    with pytest.raises(UserError, match=r"what\?: SQLite's addresses cannot hold its '\?'"):
        machine.tracking_uri()


def test_an_empty_variable_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `VARIABLE= command` and a service's file have it; the path would be the folder that one is in."""
    monkeypatch.chdir(tmp_path)
    for variable in ("POCKETPIPE_DATA", "POCKETPIPE_OUTPUT", "MLFLOW_TRACKING_URI"):
        monkeypatch.setenv(variable, "")
    assert machine.data_root() == machine.output_root() == tmp_path / "data"
    assert machine.tracking_uri() == f"sqlite:///{tmp_path}/data/mlflow.db"


def test_outside_of_a_project_in_this_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert machine.output_root() == tmp_path / "data"


def test_what_is_said_counts_from_this_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.kedro]\n")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    monkeypatch.setenv("POCKETPIPE_OUTPUT", "here")
    assert machine.output_root() == tmp_path / "below" / "here"


def test_an_answer_stands_alone_from_any_folder_of_the_project(tmp_path: Path) -> None:
    """For scripts: `$(pocketpipe champion NAME --path)` must be the path, without a word of Kedro's."""
    project = Path(__file__).parents[1]
    environment = os.environ | {"POCKETPIPE_OUTPUT": str(tmp_path)}
    command = [sys.executable, "-m", "pocketpipe", "verify", str(project / "docs")]
    done = subprocess.run(command, cwd=project / "docs", env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
