"""Waiting that a signal ends at once, without the races of work done inside signal handlers."""

import os
import select
import signal
from types import FrameType, TracebackType
from typing import Any, Self

_STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Signals:
    """Counts requests to stop (SIGINT, SIGTERM, SIGHUP) within a `with` block; `pause` returns early on any signal.

    Works in the main thread only, as all of Python's signal handling does.
    """

    def __init__(self) -> None:
        self.stops = 0

    def __enter__(self) -> Self:
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._former_fd = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        # SIGCHLD only needs a handler to wake `pause`. What is ignored (nohup) stays ignored.
        self._former: dict[signal.Signals, Any] = {signal.SIGCHLD: signal.signal(signal.SIGCHLD, _nothing)}
        for number in _STOP:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._former[number] = signal.signal(number, self._count)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._former_fd)
        os.close(self._reader)
        os.close(self._writer)

    def pause(self, seconds: float) -> None:
        """Wait that long, or until a signal comes."""
        if select.select([self._reader], [], [], max(0.0, seconds))[0]:
            os.read(self._reader, 4096)

    def _count(self, number: int, frame: FrameType | None) -> None:
        self.stops += 1


def _nothing(number: int, frame: FrameType | None) -> None: ...
