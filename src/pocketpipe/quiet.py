"""Nothing of what libraries chatter."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


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
