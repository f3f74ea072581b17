"""A bar of candidates; nothing where the output is not a terminal."""

from types import TracebackType
from typing import Self

from rich import get_console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class Candidates:
    """Counts candidates: `with Candidates("tuning", 80) as progress: progress.advance(4)`."""

    def __init__(self, title: str, total: int) -> None:
        console = get_console()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._progress.add_task(title, total=total)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._progress.stop()

    def advance(self, candidates: int) -> None:
        """So many more are done."""
        self._progress.update(self._task, advance=candidates)
