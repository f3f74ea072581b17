"""A bar with the best score so far; nothing where the output is not a terminal."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class BestSoFar:
    """Counts trials and shows the best score: `with BestSoFar("search", 30) as bar: bar.advance(best)`."""

    def __init__(self, title: str, total: int) -> None:
        console = Console()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("best {task.fields[best]}"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._progress.add_task(title, total=total, best="-")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._progress.stop()

    def advance(self, best: float | None) -> None:
        """One more is done."""
        self._progress.update(self._task, advance=1, best="-" if best is None else f"{best:.4f}")
