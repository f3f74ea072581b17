"""The figures of a training by epoch."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

from pocketpipe.storage import replacing


class Curves:
    """Figures by epoch, first epoch first: train_loss, val, learning_rate (of the epoch's last step), seconds."""

    def __init__(self, values: Mapping[str, list[float]] | None = None) -> None:
        self.values: dict[str, list[float]] = {name: list(figures) for name, figures in (values or {}).items()}
        self._started = time.perf_counter()

    @property
    def epochs(self) -> int:
        """Epochs that are complete."""
        return len(self.values.get("train_loss", ()))

    def start_epoch(self) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def end_epoch(self, **figures: float) -> None:
        """Add the figures of an epoch, and its seconds."""
        for name, figure in {**figures, "seconds": time.perf_counter() - self._started}.items():
            self.values.setdefault(name, []).append(figure)

    def save(self, file: Path) -> None:
        """Write them as JSON."""
        with replacing(file) as partial:
            partial.write_text(json.dumps(self.values, indent=1) + "\n")

    @classmethod
    def load(cls, file: Path) -> Curves:
        """Read what `save` wrote; no file yet = no epoch yet."""
        return cls(json.loads(file.read_text())) if file.exists() else cls()
