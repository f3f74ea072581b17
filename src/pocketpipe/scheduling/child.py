"""One run as a child process with a process group of its own, of which nothing is left when it has ended."""

import os
import signal
import subprocess
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from pocketpipe.errors import UserError


class Child:
    """A running command; on leaving the block it has ended, and so has all that it started in its group.

    Its own group keeps the terminal's Ctrl-C from it: the scheduler decides.
    """

    def __init__(self, command: Sequence[str], *, keep_open: Sequence[int] = ()) -> None:
        """Start `command`; `keep_open` are descriptors that it inherits. Raises UserError if it cannot."""
        try:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,  # a group in the background that reads the terminal is stopped by it
                pass_fds=tuple(keep_open),
                process_group=0,
            )
        except OSError as error:
            raise UserError(f"cannot start {command[0]}: {error.strerror}") from error

    @property
    def pid(self) -> int:
        """Process id, which is the group's id too."""
        return self._process.pid

    def has_ended(self) -> bool:
        """Whether the command itself is over. It is not reaped yet, so its id cannot be another's."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to all processes of the group."""
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):  # all of it is gone
            return

    @property
    def exit_code(self) -> int:
        """Exit code (-N: ended by signal N), once the block is left."""
        return self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if error is None:
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        # Not reaped yet, so the group's id is still its own: end what the command left behind.
        self.signal_group(signal.SIGKILL)
        self._process.wait()
