"""Runs that a killed process left behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from pocketpipe.tracking.runs import RunTracker
from pocketpipe.tracking.stale import HOST, PROCESS, SPACE, close_stale_runs, process_tags
from pocketpipe.tracking.store import Store

START_AND_WAIT = """
import sys, time
from pathlib import Path
from pocketpipe.record import StageRecord
from pocketpipe.tracking.runs import RunTracker
from pocketpipe.tracking.store import open_store
tracker = RunTracker(open_store(sys.argv[1], Path(sys.argv[2]), "pocketpipe"))
tracker.start("compress", {})
tracker.start_stage("teacher")
tracker.log_record(StageRecord(stage="teacher", curves={"loss": (1.0,)}))
print("started", flush=True)
time.sleep(600)
"""


def test_a_killed_run_and_its_stage_are_closed_by_the_next_run(store: Store, tmp_path: Path):
    command = [sys.executable, "-c", START_AND_WAIT, store.uri, str(tmp_path / "artifacts")]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "started\n"
    assert close_stale_runs(store) == ()  # it lives
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    tracker = RunTracker(store)
    mine = tracker.start("compress", {})
    runs = {run.info.run_id: run for run in store.client.search_runs([store.experiment_id])}
    assert runs.pop(mine).info.status == "RUNNING"
    assert len(runs) == 2
    for run in runs.values():
        assert run.info.status == "KILLED"
        assert "without a word" in run.data.tags["error"]
        assert run.info.end_time < store.client.get_run(mine).info.start_time  # when it was last heard of, not now


def test_a_run_of_another_host_is_left_alone(store: Store):
    tags = process_tags() | {HOST: "elsewhere", PROCESS: "1 gone"}
    store.client.create_run(store.experiment_id, tags=tags)
    assert close_stale_runs(store) == ()


def test_a_run_in_another_container_is_left_alone(store: Store):
    """There the same ids are other processes."""
    store.client.create_run(store.experiment_id, tags=process_tags() | {SPACE: "elsewhere", PROCESS: "1 gone"})
    assert close_stale_runs(store) == ()


def test_another_process_with_the_same_id_is_not_the_one_that_made_the_run(store: Store):
    """Process ids are used again; the start time is not."""
    run = store.client.create_run(store.experiment_id, tags=process_tags() | {PROCESS: f"{os.getpid()} earlier"})
    assert close_stale_runs(store) == (run.info.run_id,)
