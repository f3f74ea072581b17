"""Commands' exit codes, and what they say where a machine or a server denies them something."""

import errno
import os
import urllib.error
from email.message import Message

import pytest
import requests

from pocketpipe.cli import FAULT, _for_people
from pocketpipe.tracking.store import denied_by_server


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "epoch.ckpt"), 2, "epoch.ckpt: No space left on device"),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES), "x.lock"), 2, "x.lock: Permission denied"),
        (KeyError("a fault of ours"), FAULT, "KeyError: 'a fault of ours'"),
        (KeyboardInterrupt(), 130, ""),
    ],
    ids=["no space", "denied", "fault", "Ctrl-C"],
)
def test_exit_codes(error: BaseException, code: int, said: str, capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        try:
            raise error
        except Exception as cause:
            raise RuntimeError("as Kedro and Lightning wrap it") from cause

    with pytest.raises(SystemExit) as ended:
        _for_people(fail)
    assert ended.value.code == code
    shown = capfd.readouterr().err
    assert said in shown
    assert ("Traceback" in shown) == (code == FAULT)


def test_what_was_being_handled_does_not_explain_a_fault(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        try:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "x.lock")
        except PermissionError:
            raise KeyError("a fault of ours")  # noqa: B904

    with pytest.raises(SystemExit) as ended:
        _for_people(fail)
    assert ended.value.code == FAULT
    assert "KeyError" in capfd.readouterr().err


def test_only_the_servers_errors_are_the_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.exceptions import MlflowException

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    refused = "http://127.0.0.1:9/artifacts: 413 too large"
    assert denied_by_server(requests.HTTPError(refused)) == f"MLFLOW_TRACKING_URI 'http://127.0.0.1:9': {refused}"
    assert denied_by_server(MlflowException("gone")) is not None
    assert denied_by_server(urllib.error.HTTPError("http://data", 404, "Not Found", Message(), None)) is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////tmp/mlflow.db")
    assert denied_by_server(MlflowException("a fault of ours")) is None


def test_a_server_that_went_away_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from mlflow.exceptions import MlflowException

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")

    def fail() -> None:
        raise MlflowException("API request to http://me:secret@127.0.0.1:9/api failed with exception refused\nmore")

    with pytest.raises(SystemExit) as ended:
        _for_people(fail)
    assert ended.value.code == 2
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert line.startswith("MLFLOW_TRACKING_URI 'http://***@127.0.0.1:9': API request to http://***@")
