"""A bar that counts, and libraries that are quiet for a while."""

import io
import logging
import warnings

import pytest
from rich.console import Console
from rich.progress import TextColumn

from pocketpipe.quiet import quiet
from pocketpipe.terminal import Counting


def shown(console: Console) -> str:
    with Counting("search", 30, TextColumn("best {task.fields[best]}"), console=console, best="-") as bar:
        bar.advance(4)
        bar.advance(best="0.9")
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_bar_in_a_terminal_and_nothing_elsewhere() -> None:
    bar = shown(Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None))
    assert "search" in bar
    assert "5/30" in bar
    assert "best 0.9" in bar
    assert shown(Console(file=io.StringIO())) == ""


def test_loggers_tell_errors_alone_and_are_as_before_afterwards() -> None:
    logger = logging.getLogger("a.chatty.library")
    logger.setLevel(logging.INFO)
    with pytest.raises(ZeroDivisionError), quiet(["a.chatty.library"]):
        1 / (logger.level - logging.ERROR)
    assert logger.level == logging.INFO


@pytest.mark.parametrize(("modules", "left"), [("", []), ("(one|two)", ["three"])])
def test_warnings_of_some_modules_or_of_all(modules: str, left: list[str]) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with quiet([], warnings_of=modules):
            for module in ("one", "two.inner", "three"):
                warnings.warn_explicit(module, UserWarning, "file.py", 1, module=module)
        assert [str(warning.message) for warning in told] == left
