"""Provenance: written whole, read back equal, true about the git state, silent about the host."""

import platform
import socket
import subprocess
from pathlib import Path

import pytest

from pocketpipe.errors import UserError
from pocketpipe.lineage.provenance import (
    Provenance,
    git_commit,
    provenance_now,
    read_provenance,
    write_provenance,
)


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "code.py").write_text("x = 1\n")
    git(folder, "add", "code.py")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def made(project: Path) -> Provenance:
    return provenance_now(
        fingerprint="f" * 16,
        inputs={"plan": "a" * 16},
        stage="finetune",
        engines=["numpy", "torch"],
        run="run-1",
        commit=git_commit(project),
    )


def test_reads_back_equal(project: Path, tmp_path: Path) -> None:
    provenance = made(project)
    write_provenance(tmp_path, provenance)
    assert read_provenance(tmp_path) == provenance
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["provenance.json"]


def test_commit_and_dirtiness(project: Path, tmp_path: Path) -> None:
    head = git(project, "rev-parse", "HEAD")
    clean = git_commit(project)
    assert clean is not None
    assert (clean.hash, clean.dirty) == (head, False)
    (project / "notes.txt").write_text("untracked files do not run\n")
    assert git_commit(project) == clean
    (project / "code.py").write_text("x = 2\n")
    assert made(project).commit == clean.model_copy(update={"dirty": True})
    assert str(made(project).commit) == f"{head[:12]} with uncommitted changes"


def test_outside_git_there_is_no_commit(tmp_path: Path) -> None:
    assert git_commit(tmp_path) is None
    assert git_commit(tmp_path / "missing") is None


def test_no_host_name_and_no_path(project: Path) -> None:
    text = made(project).model_dump_json()
    assert platform.python_version() in text
    assert str(project) not in text
    assert socket.gethostname() not in text


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no provenance\.json"):
        read_provenance(tmp_path)
    (tmp_path / "provenance.json").write_text('{"fingerprint": 3}')
    with pytest.raises(UserError, match=r"provenance\.json: .*fingerprint"):
        read_provenance(tmp_path)
