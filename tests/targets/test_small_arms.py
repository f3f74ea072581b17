"""What the deliveries for 32-bit ARM have in common: a static program for Linux, an image for a bare processor."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from pocketpipe.errors import NotMeasured
from pocketpipe.integer import reference
from pocketpipe.integer.lowering import lower
from pocketpipe.targets.base import TARGETS
from targets import digits
from targets.conftest import Delivered
from targets.every_operator import every_operator

PACKAGES = {"armv7": "qemu-user", "cortex_m": "qemu-system-arm"}
"""What brings each target's emulator."""
EMULATORS = {"armv7": "qemu-arm", "cortex_m": "qemu-system-arm"}
EMULATED = [
    pytest.param(name, marks=pytest.mark.skipif(not shutil.which(emulator), reason=f"needs {PACKAGES[name]}"))
    for name, emulator in EMULATORS.items()
]


@pytest.mark.parametrize("name", EMULATED)
def test_the_processor_gives_the_integers_of_the_reference(name: str, delivered: Delivered) -> None:
    stored = digits.data()[1].inputs[:200]
    outputs = TARGETS.resolve(name).run(delivered(name, digits.quantized_file()), stored)
    assert np.array_equal(outputs, digits.right(stored))


@pytest.mark.parametrize("name", EMULATED)
def test_every_operator_gives_the_integers_of_the_reference(name: str) -> None:
    """Also those that divide: a processor of 32 bits has no division of 64, and no library brings one."""
    graph = lower(every_operator())
    integers = np.random.default_rng(1).integers(-128, 128, (6, 4, 6, 6)).astype(np.int8)
    assert np.array_equal(TARGETS.resolve(name).run_integers(graph, integers), reference.run(graph, integers))


@pytest.mark.parametrize("name", PACKAGES)
def test_same_file_gives_same_bytes(name: str, delivered: Delivered, tmp_path: Path) -> None:
    """And none of them names the folder that they were made in."""
    again = tmp_path / "elsewhere" / "again"
    onnx = digits.quantized_file()
    TARGETS.resolve(name).compile(onnx, digits.metadata(name), again, digits.golden_examples())
    files = digits.files(again)
    assert digits.files(delivered(name, onnx)) == files
    assert not [file for file, content in files.items() if str(tmp_path).encode() in content]


@pytest.mark.parametrize("name", PACKAGES)
def test_without_emulator_nothing_is_measured(
    name: str, delivered: Delivered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, folder = TARGETS.resolve(name), delivered(name, digits.quantized_file())
    if not target.emulated:
        pytest.skip("this machine is an ARM itself")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotMeasured, match=f"apt-get install {PACKAGES[name]}"):
        target.run(folder, digits.golden_examples())
