"""Executed instructions: between what the products need and what any sensible program takes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pocketpipe.errors import NotMeasured
from pocketpipe.integer.graph import Convolution, Linear
from pocketpipe.targets import counting
from pocketpipe.targets.aarch64 import AArch64
from pocketpipe.targets.base import TARGETS
from targets import digits
from targets.conftest import Delivered

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
def test_as_many_as_the_products_need_and_not_many_more(name: str, delivered: Delivered) -> None:
    if not shutil.which(EMULATORS[name.partition("-")[0]]):
        pytest.skip("needs QEMU")
    target, folder = TARGETS.resolve(name), delivered(name, digits.quantized_file())
    found = target.measured(folder)["instructions"]
    least = products() / PER_INSTRUCTION[name]
    assert least <= found <= 50 * least
    assert target.measured(folder)["instructions"] == found


@pytest.mark.parametrize(("told", "version"), [("7.2.22 (Debian)", 1), ("9.0.0", 2), ("10.1.2 (Ubuntu)", 2)])
def test_the_plugin_is_made_for_the_emulators_interface(told: str, version: int, tmp_path: Path) -> None:
    emulator = tmp_path / "qemu"
    emulator.write_text(f"#!/bin/sh\necho 'qemu-aarch64 version {told}'\n")
    emulator.chmod(0o755)
    assert counting._interface(str(emulator)) == version
    library = counting._plugin(tmp_path, version).read_bytes()
    assert (b"tb_exec_inline" in library, b"tb_exec_cb" in library) == (version == 1, version == 2)


def test_an_emulator_that_does_not_know_the_processor_measures_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "qemu-aarch64").write_text("#!/bin/sh\necho Available CPUs:\necho '  cortex-a72'\n")
    (tmp_path / "qemu-aarch64").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(AArch64, "emulated", True)
    assert TARGETS.resolve("aarch64").host() == "qemu-aarch64"
    newer = TARGETS.resolve("aarch64-cortex-a76")
    assert newer.host() == ""
    with pytest.raises(NotMeasured, match="does not know cortex-a76"):
        newer.command(tmp_path)


def test_without_an_emulator_there_is_no_figure(
    delivered: Delivered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = delivered("cortex_m", digits.quantized_file())
    monkeypatch.setenv("PATH", str(tmp_path))
    assert TARGETS.resolve("cortex_m").measured(folder) == {}


def test_this_host_tells_milliseconds(delivered: Delivered) -> None:
    measured = TARGETS.resolve("x86_64").measured(delivered("x86_64", digits.quantized_file()))
    assert 0 < measured["milliseconds"] < 100
