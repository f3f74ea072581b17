"""What a person sees of long work in a terminal: a bar that counts, and nothing of what libraries chatter."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn


class Counting:
    """A bar that counts; nothing where the output is not a terminal.

    >>> with Counting("tuning", 80, console=Console()) as bar:
    ...     bar.advance(4)

    `columns` stand behind the count, `fields` are what they show at first.
    """

    def __init__(self, title: str, total: int, *columns: ProgressColumn, console: Console, **fields: Any) -> None:
        first = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self._progress = Progress(*first, *columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._progress.add_task(title, total=total, **fields)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._progress.stop()

    def advance(self, count: int = 1, **fields: Any) -> None:
        """So many more are done; `fields` are what the columns show from now on."""
        self._progress.update(self._task, advance=count, **fields)


@contextmanager
def quiet(loggers: Sequence[str], *, warnings_of: str = "") -> Iterator[None]:
    """Let loggers tell errors alone, and show no warnings: of modules that a pattern names, or at all."""
    chatty = [logging.getLogger(name) for name in loggers]
    levels = [logger.level for logger in chatty]
    try:
        for logger in chatty:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=warnings_of)
            yield
    finally:
        for logger, level in zip(chatty, levels, strict=True):
            logger.setLevel(level)
