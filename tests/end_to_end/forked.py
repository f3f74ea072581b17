"""Commands forked from a process that has imported the engines: half of what a small run takes is to import them.

Each is a process of its own all the same, with id, group, exit code and signals. Where files are compared to the byte,
one side is made as users start it (`House.cold`): forks share the seeds of hashes and of generators.
"""

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest

WARM = "end_to_end.warm"


class Forked:
    """A command that was started; the part of `subprocess.Popen` that tests use."""

    def __init__(self, module: str, arguments: tuple[str, ...], environment: dict[str, str], cwd: Path, log: Path):
        """Start `python -m module ...` in `cwd`; what it says goes to `log`."""
        self._log = log
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([WARM])
        self._process = context.Process(target=_run, args=(module, arguments, environment, cwd, log))
        with pytest.MonkeyPatch.context() as patched:  # the server starts with the first command
            for name in ("PYTHONPATH", "COLUMNS"):
                patched.setenv(name, environment[name])
            self._process.start()

    @property
    def pid(self) -> int:
        """Of the process, and of its group."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, below 0 if a signal ended it; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The same."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once it has ended."""
        self._process.join(timeout)
        if self.returncode is None:
            os.killpg(self.pid, signal.SIGKILL)  # pytest would wait for it at its end
            raise subprocess.TimeoutExpired("a forked command", timeout or 0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """(all that it said, None), once it has ended."""
        self.wait(timeout)
        return self._log.read_text(), None


def _run(module: str, arguments: tuple[str, ...], environment: dict[str, str], cwd: Path, log: Path) -> None:
    os.setsid()
    with log.open("wb") as stream:
        for descriptor in (sys.stdout.fileno(), sys.stderr.fileno()):
            os.dup2(stream.fileno(), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv[1:] = arguments
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # forks of multiprocessing end without
