"""Telling a person how a training goes: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Self

from rich import get_console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pocketpipe.training.curves import Curves

log = logging.getLogger(__name__)

LINES = 5
"""Lines that a training writes where there is no terminal."""


class EpochProgress:
    """Progress of one training, as a context manager."""

    def __init__(self, title: str, epochs: int, metric: str) -> None:
        self._title = title
        self._epochs = epochs
        self._metric = metric
        self._told = 0
        self._bar: Progress | None = None
        self._row: TaskID | None = None

    def __enter__(self) -> Self:
        if get_console().is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]} {task.fields[figures]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=get_console())
            self._row = self._bar.add_task(self._title, total=self._epochs, epoch=0, epochs=self._epochs, figures="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def at(self, epochs: float) -> None:
        """Move the bar to `epochs` done, a fraction within an epoch."""
        if self._bar is not None and self._row is not None:
            self._bar.update(self._row, completed=epochs)

    def tell(self, curves: Curves) -> None:
        """Show the figures of the last complete epoch; asked again about the same epoch it says nothing."""
        if curves.epochs <= self._told:
            return
        self._told = curves.epochs
        loss, val = (curves.values[name][-1] for name in ("train_loss", "val"))
        figures = f"loss {loss:.4f}, val {self._metric} {val:.4f}"
        if self._bar is not None and self._row is not None:
            self._bar.update(self._row, completed=self._told, epoch=self._told, figures=figures)
        elif self._told == self._epochs or self._told % max(1, self._epochs // LINES) == 0:
            log.info("%s: epoch %d/%d, %s", self._title, self._told, self._epochs, figures)
