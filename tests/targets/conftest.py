"""Deliveries of the small digits network, which most files here look at from one side or another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pocketpipe.targets.base import TARGETS
from targets import digits

Delivered = Callable[[str, bytes], Path]
"""(target, ONNX file) -> the folder."""


@pytest.fixture(scope="session")
def delivered(tmp_path_factory: pytest.TempPathFactory) -> Delivered:
    """Makes a folder, with `digits.golden_examples`, once in a process. Who changes files copies them first."""
    made: dict[tuple[str, bytes], Path] = {}

    def once(name: str, onnx: bytes) -> Path:
        if (name, onnx) not in made:
            folder = tmp_path_factory.mktemp("delivered") / name
            TARGETS.resolve(name).compile(onnx, digits.metadata(name), folder, digits.golden_examples())
            made[name, onnx] = folder
        return made[name, onnx]

    return once
