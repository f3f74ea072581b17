"""MLflow's pages: served on the loopback over a local store; a remote store through the same API."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pocketpipe.errors import UserError
from pocketpipe.tracking.gates import Decision
from pocketpipe.tracking.registry import Registry
from pocketpipe.tracking.runs import RunTracker
from pocketpipe.tracking.server import page, serve
from pocketpipe.tracking.store import Store, open_store

SERVE = """
import sys
from pathlib import Path
from pocketpipe.tracking.server import serve
sys.exit(serve(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
"""


@pytest.fixture(scope="module")
def plain_address(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server as `mlflow server` starts it by default: it hands artefacts on itself (`mlflow-artifacts:/`)."""
    folder, port = tmp_path_factory.mktemp("plain"), _free_port()
    (folder / "mlflow.db").write_bytes(empty_database.read_bytes())
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(folder / "kept"), "--workers", "1", "--port", str(port)]
    without_jobs = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # else seven more processes start
    child = subprocess.Popen(
        command, env=without_jobs, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        _wait_for(f"http://127.0.0.1:{port}/health")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture(scope="module")
def address(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server in its own process, over a store of its own."""
    folder, port = tmp_path_factory.mktemp("served"), _free_port()
    (folder / "mlflow.db").write_bytes(empty_database.read_bytes())
    command = [sys.executable, "-c", SERVE, f"sqlite:///{folder / 'mlflow.db'}", str(folder / "artifacts"), str(port)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert child.stdout is not None
    assert f"http://127.0.0.1:{port}/#/experiments/" in child.stdout.readline()
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(f"{address}/health")
        assert MlflowClient(address).get_experiment_by_name("pocketpipe"), "it serves that store"
        yield address
    finally:
        child.terminate()
        assert child.wait(timeout=30) == 0
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0


def _wait_for(url: str) -> None:
    for _ in range(300):
        try:
            urllib.request.urlopen(url)
            return
        except urllib.error.URLError:
            time.sleep(0.2)
    pytest.fail(f"{url} does not answer")


@pytest.mark.parametrize("server", ["address", "plain_address"])
def test_runs_and_champions_are_kept_on_a_server_as_in_a_file(
    server: str, request: pytest.FixtureRequest, tmp_path: Path, evaluation
):
    tracker = RunTracker(open_store(request.getfixturevalue(server), tmp_path / "not used", "pocketpipe"))
    run_id = tracker.start("compress", {"seed": 0})
    tracker.start_stage("compile")
    package = tmp_path / "files"
    (package / "deliveries" / "x86_64").mkdir(parents=True)
    (package / "deliveries" / "x86_64" / "model.so").write_bytes(b"\x7fELF")
    registry = Registry(tracker.store, tmp_path / "downloads")
    version = registry.register("digits-resnet8", package, evaluation(), {}, run_id)
    registry.settle("digits-resnet8", version, Decision(promote=True, reasons=("first",)), against=None)
    assert not (tmp_path / "downloads").exists(), "what has just been uploaded is not fetched"
    tracker.end(evaluation=evaluation())
    champion = registry.champion("digits-resnet8")
    assert champion is not None
    assert champion.evaluation == evaluation()
    assert (champion.folder / "deliveries" / "x86_64" / "model.so").read_bytes() == b"\x7fELF"
    assert tracker.store.client.get_run(run_id).info.run_name == "kept: compress"


def test_the_address_of_the_store_is_on_no_command_line(address: str):
    """A database's holds its password, and everyone may list processes."""
    port = address.rpartition(":")[2]
    lines = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            lines.append(file.read_bytes().decode(errors="replace").split("\0"))
    servers = [line for line in lines if port in line and SERVE not in line]
    assert servers, "there it is"
    assert not any("sqlite:" in word for line in servers for word in line)


def test_a_server_is_not_served_again(tmp_path: Path):
    with pytest.raises(UserError, match="is a server already"):
        serve("http://127.0.0.1:5000", tmp_path, 5000)


def test_a_port_that_is_taken_is_one_line(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} is taken; name another one: --port {port + 1}"):
            serve(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path, port)


def test_the_page_is_that_of_the_experiment(store: Store, tmp_path: Path):
    other = open_store(store.uri, tmp_path, "another")
    assert page(other, 5000).startswith(f"http://127.0.0.1:5000/#/experiments/{other.experiment_id}/runs")
