"""One at a time, across processes: a lock that the kernel releases when its holders are gone, however they went."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pocketpipe.errors import UserError


class Busy(UserError):
    """Somebody else holds the lock; the message says who."""


class HeldLock:
    """The lock, held. A child process that is given `descriptor` holds it too, until it ends."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def name_holder(self, pid: int) -> None:
        """Let others be told that process `pid` is at work; where the disk is full they are told less."""
        with suppress(OSError):
            os.ftruncate(self.descriptor, 0)
            os.pwrite(self.descriptor, f"{pid}\n".encode(), 0)


@contextmanager
def only_one(path: Path, what: str) -> Iterator[HeldLock]:
    """Hold the lock file `path` within the block. Raises Busy at once if another process has it.

    `what` says in the message what is at work ("a scheduler"). The file stays; only the lock on it counts.
    (`filelock` would empty the file on every attempt, and with it the holder's name.)
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(f"cannot open the lock file {path}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Busy(f"{what} is at work already (process {_holder(descriptor)}, lock {path})") from error
        lock = HeldLock(descriptor)
        lock.name_holder(os.getpid())
        yield lock
    finally:
        os.close(descriptor)


def _holder(descriptor: int) -> str:
    return os.pread(descriptor, 32, 0).decode().strip() or "unknown"
