"""MLflow's pages over a local store: on this machine only, without a network, without its workers."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pocketpipe.errors import UserError
from pocketpipe.tracking.store import EXPERIMENT, Store, is_server, open_store, shown

HOST = "127.0.0.1"

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # seven worker processes and 1.9 GB, for language models only
    "PYTHONWARNINGS": "ignore",
}


def serve(uri: str, artifacts: Path, port: int) -> int:
    """Serve the pages of the store at `uri` until interrupted; the exit code.

    Prints the address to open. Raises UserError if `uri` is itself a server's, or the port is taken.
    """
    if is_server(uri):
        raise UserError(f"MLFLOW_TRACKING_URI {shown(uri)!r} is a server already: open it in a browser")
    if not _is_free(port):
        raise UserError(f"port {port} is taken; name another one: --port {port + 1}")
    store = open_store(uri, artifacts, EXPERIMENT)
    print(f"open {page(store, port)}   (stop: Ctrl-C)", flush=True)
    # in a session of its own: Ctrl-C would reach server and worker both, and end in a traceback
    # and the address, which may hold a password, in the environment: everyone on the machine can read command lines
    environment = {**os.environ, **QUIET, "MLFLOW_BACKEND_STORE_URI": uri}
    server = subprocess.Popen(command(artifacts, port), env=environment, start_new_session=True)
    with _interrupted_by(signal.SIGTERM):
        try:
            return server.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            server.terminate()
            server.wait()


@contextmanager
def _interrupted_by(signum: signal.Signals) -> Iterator[None]:
    """Let the signal end the work as Ctrl-C does."""
    before = signal.signal(signum, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signum, before)


def command(artifacts: Path, port: int) -> list[str]:
    """The command line of the server, which finds the store in its environment."""
    return [
        *(sys.executable, "-m", "mlflow", "server"),
        *("--default-artifact-root", artifacts.absolute().as_uri()),
        *("--host", HOST, "--port", str(port), "--workers", "1"),
        *("--uvicorn-opts", "--log-level warning"),
    ]


def page(store: Store, port: int) -> str:
    """Address of the list of runs, in MLflow's view for model training (the other is for language models)."""
    return f"http://{HOST}:{port}/#/experiments/{store.experiment_id}/runs?workflowType=machine_learning"


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
