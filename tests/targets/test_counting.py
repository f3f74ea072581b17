"""Executed instructions: between what the products need and what any sensible program takes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pocketpipe.integer.graph import Convolution, Linear
from pocketpipe.targets.base import TARGETS
from targets import digits

PER_INSTRUCTION = {"aarch64": 4, "aarch64-cortex-a76": 16, "armv7": 8, "cortex_m": 1}
"""Products that one instruction of the processor can form at most."""
EMULATORS = {"aarch64": "qemu-aarch64", "armv7": "qemu-arm", "cortex_m": "qemu-system-arm"}


def products() -> int:
    graph, count = digits.graph(), 0
    for operator in graph.operators:
        if isinstance(operator, Convolution):
            height, width, _ = graph.tensors[operator.output].shape
            count += height * width * operator.weight.size
        elif isinstance(operator, Linear):
            count += operator.weight.size
    return count


@pytest.mark.parametrize("name", PER_INSTRUCTION)
def test_as_many_as_the_products_need_and_not_many_more(name: str, tmp_path: Path) -> None:
    if not shutil.which(EMULATORS[name.partition("-")[0]]):
        pytest.skip("needs QEMU")
    target = TARGETS.resolve(name)
    target.compile(digits.quantized_file(), digits.metadata(name), tmp_path / "out")
    found = target.measured(tmp_path / "out")["instructions"]
    least = products() / PER_INSTRUCTION[name]
    assert least <= found <= 50 * least
    assert target.measured(tmp_path / "out")["instructions"] == found


def test_without_an_emulator_there_is_no_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = TARGETS.resolve("cortex_m")
    target.compile(digits.quantized_file(), digits.metadata("cortex_m"), tmp_path / "out")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert target.measured(tmp_path / "out") == {}


def test_this_host_tells_milliseconds(tmp_path: Path) -> None:
    target = TARGETS.resolve("x86_64")
    target.compile(digits.quantized_file(), digits.metadata("x86_64"), tmp_path / "out")
    assert 0 < target.measured(tmp_path / "out")["milliseconds"] < 100
