"""Opening a store: quiet, absolute, and by several processes at once."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pocketpipe.errors import UserError
from pocketpipe.tracking.runs import RunTracker
from pocketpipe.tracking.store import RETRIES, Store, open_store

OPEN_AND_WRITE = """
import sys
import time
from pathlib import Path
from pocketpipe.record import StageRecord
from pocketpipe.tracking.runs import RunTracker
from pocketpipe.tracking.store import open_store
tracker = RunTracker(open_store(sys.argv[1], Path(sys.argv[2]), "pocketpipe"))
for _ in range(3):
    tracker.start("compress", {"seed": 0})
    tracker.start_stage("teacher")
    tracker.log_record(StageRecord(stage="teacher", metrics={"accuracy": 0.5}, curves={"loss": (2.0, 1.0)}))
    tracker.end()
"""


def test_importing_the_room_does_not_import_mlflow():
    code = (
        "import sys, pocketpipe.tracking.runs, pocketpipe.tracking.registry, pocketpipe.tracking.describe;"
        "sys.exit(any(name in sys.modules for name in ('mlflow', 'torch', 'kedro')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_processes_that_open_a_store_at_once_all_succeed_without_a_word(tmp_path: Path):
    uri, artifacts = f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}", tmp_path / "artifacts"
    command = [sys.executable, "-c", OPEN_AND_WRITE, uri, str(artifacts)]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for _ in range(2)]
    said = [child.communicate(timeout=120)[0].decode() for child in children]
    assert [child.returncode for child in children] == [0, 0], said
    assert said == ["", ""]
    store = open_store(uri, artifacts, "pocketpipe")
    runs = store.client.search_runs([store.experiment_id])
    assert len(runs) == 2 * 3 * 2  # processes x runs x (run and stage)
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_a_process_killed_while_it_makes_the_store_leaves_nothing_in_the_way(tmp_path: Path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    child = subprocess.Popen([sys.executable, "-c", OPEN_AND_WRITE, uri, str(tmp_path / "artifacts")])
    while not list(tmp_path.glob("*.db*")) + list(tmp_path.glob(".*.db.[0-9]*")):
        time.sleep(0.01)
    time.sleep(0.3)  # in the middle of MLflow's migrations
    child.kill()
    child.wait()
    store = open_store(uri, tmp_path / "artifacts", "pocketpipe")
    assert RunTracker(store).start("compress", {})


def test_artefacts_lie_at_an_absolute_place(store: Store, tmp_path: Path):
    experiment = store.client.get_experiment(store.experiment_id)
    assert experiment.artifact_location == (tmp_path / "artifacts").as_uri()


def test_opening_again_finds_the_same_experiment_and_telemetry_is_off(store: Store, tmp_path: Path):
    assert open_store(store.uri, tmp_path / "elsewhere", "pocketpipe").experiment_id == store.experiment_id
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert os.environ["DO_NOT_TRACK"] == "1"


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("mlruns", "keeps no runs in plain files"),
        ("file:///data/mlruns", "keeps no runs in plain files"),
        ("sqlite:///mlflow.db", "must be absolute"),
        ("http://127.0.0.1:9", "cannot be opened"),
        ("nosuchdatabase://x/y", "cannot be opened"),
    ],
)
def test_a_store_that_cannot_be_opened_is_one_line(uri: str, said: str, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match=said) as caught:
        open_store(uri, tmp_path, "pocketpipe")
    assert "\n" not in str(caught.value)


def test_a_server_is_waited_for_as_mlflow_does_once_it_was_there(tmp_path: Path, monkeypatch):
    """Few tries are for opening alone: an hour's training must not end with a restart of the server."""
    monkeypatch.delenv(RETRIES, raising=False)
    tries: list[str | None] = []
    monkeypatch.setattr(
        "pocketpipe.tracking.store._experiment", lambda *_: tries.append(os.environ.get(RETRIES)) or "0"
    )
    open_store("http://127.0.0.1:9", tmp_path, "pocketpipe")
    assert tries == ["3"]
    assert RETRIES not in os.environ


def test_a_file_that_is_no_database_is_one_line(tmp_path: Path):
    (tmp_path / "mlflow.db").write_text("not a database, but long enough to be looked at" * 100)
    with pytest.raises(UserError, match="cannot be opened"):
        open_store(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path, "pocketpipe")


def test_a_deleted_experiment_is_named_with_its_remedy(store: Store, tmp_path: Path):
    store.client.delete_experiment(store.experiment_id)
    with pytest.raises(UserError, match=f"restore --experiment-id {store.experiment_id}") as refusal:
        open_store(store.uri, tmp_path, "pocketpipe")
    command = str(refusal.value).partition("again: ")[2].replace(".venv/bin/mlflow", f"{sys.executable} -m mlflow")
    subprocess.run(command, shell=True, check=True, cwd=tmp_path, stdout=subprocess.DEVNULL)
    assert open_store(store.uri, tmp_path, "pocketpipe").experiment_id == store.experiment_id


def test_a_store_that_was_moved_is_found_by_the_link_that_it_asks_for(empty_database: Path, tmp_path: Path):
    before, after = tmp_path / "it was here", tmp_path / "after"
    before.mkdir()
    shutil.copy(empty_database, before / "mlflow.db")
    tracker = RunTracker(open_store(f"sqlite:///{before / 'mlflow.db'}", before / "artifacts", "pocketpipe"))
    run_id = tracker.start("compress", {})
    tracker.log_artifacts(Path(__file__))
    tracker.end()
    before.rename(after)
    moved = (f"sqlite:///{after / 'mlflow.db'}", after / "artifacts", "pocketpipe")
    with pytest.raises(UserError, match="was the folder moved") as refusal:
        open_store(*moved)
    subprocess.run(str(refusal.value).partition("link: ")[2], shell=True, check=True)
    store = open_store(*moved)
    assert Path(store.client.download_artifacts(run_id, Path(__file__).name)).read_text() == Path(__file__).read_text()
