"""What a person sees of long work in a terminal: a bar that counts."""

from __future__ import annotations

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
