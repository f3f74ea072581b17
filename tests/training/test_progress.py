"""Progress: a bar in a terminal, also within another one; a few lines elsewhere."""

import io
import logging

import pytest
from rich.console import Console
from rich.progress import Progress

from pocketpipe.training import progress
from pocketpipe.training.curves import Curves
from pocketpipe.training.progress import EpochProgress


def run(epochs: int) -> None:
    curves = Curves()
    with EpochProgress("teacher", epochs, "accuracy") as shown:
        for epoch in range(epochs):
            shown.at(epoch + 0.5)
            curves.end_epoch(train_loss=1 / (1 + epoch), val=0.5 + epoch / 100, learning_rate=0.1)
            shown.tell(curves)
            shown.tell(curves)


def test_a_few_lines_without_a_terminal(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    output = io.StringIO()
    monkeypatch.setattr(progress, "get_console", lambda: Console(file=output))
    with caplog.at_level(logging.INFO):
        run(23)
    assert [record.message.split(",")[0] for record in caplog.records] == [
        f"teacher: epoch {epoch}/23" for epoch in (4, 8, 12, 16, 20, 23)
    ]
    assert caplog.records[0].message.endswith("loss 0.2500, val accuracy 0.5300")
    assert output.getvalue() == ""


def test_a_bar_in_a_terminal_and_within_another(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    monkeypatch.setattr(progress, "get_console", lambda: console)
    with Progress(console=console) as outer:
        outer.add_task("search", total=2)
        run(3)
    assert isinstance(console.file, io.StringIO)
    assert "epoch 3/3 loss 0.3333, val accuracy 0.5200" in console.file.getvalue()
    assert not caplog.records
