"""The delivery for 32-bit ARM Linux: one static program."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from pocketpipe.delivery.metadata import DeliveryMetadata
from pocketpipe.errors import NotMeasured
from pocketpipe.integer import reference
from pocketpipe.integer.lowering import lower
from pocketpipe.targets.base import TARGETS
from targets import digits
from targets.conftest import Delivered
from targets.every_operator import every_operator


@pytest.fixture(scope="module")
def folder(delivered: Delivered) -> Path:
    return delivered("armv7", digits.quantized_file())


@pytest.mark.skipif(not shutil.which("qemu-arm"), reason="needs qemu-user")
def test_arm_gives_the_integers_of_the_reference(folder: Path) -> None:
    stored = digits.data()[1].inputs[:200]
    assert np.array_equal(TARGETS.resolve("armv7").run(folder, stored), digits.right(stored))


@pytest.mark.skipif(not shutil.which("qemu-arm"), reason="needs qemu-user")
def test_every_operator_gives_the_integers_of_the_reference() -> None:
    """Also those that divide: a processor of 32 bits has no division of 64, and no library brings one."""
    graph = lower(every_operator())
    integers = np.random.default_rng(1).integers(-128, 128, (6, 4, 6, 6)).astype(np.int8)
    assert np.array_equal(TARGETS.resolve("armv7").run_integers(graph, integers), reference.run(graph, integers))


def test_the_program_is_small_static_and_for_arm(folder: Path) -> None:
    program = (folder / "runner").read_bytes()
    assert program[:5] == b"\x7fELF\x01"
    assert int.from_bytes(program[18:20], "little") == 40  # ARM
    assert b"ld-linux" not in program
    assert b"ld-musl" not in program
    footprint = DeliveryMetadata.read(folder).footprint
    assert footprint is not None
    assert footprint.weights < len(program) == footprint.flash < footprint.weights + 20_000


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
def test_the_readme_leaves_the_program_as_it_is(folder: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(folder, tmp_path / "out"))
    lines = (copied / "README.md").read_text().split("```sh\n")[1].split("```")[0]
    subprocess.run(["sh", "-ec", lines], cwd=copied, check=True)
    assert (copied / "runner").read_bytes() == (folder / "runner").read_bytes()


def test_same_file_gives_same_bytes(folder: Path, tmp_path: Path) -> None:
    TARGETS.resolve("armv7").compile(
        digits.quantized_file(), digits.metadata("armv7"), tmp_path / "again", digits.golden_examples()
    )
    assert digits.files(folder) == digits.files(tmp_path / "again")


def test_without_emulator_nothing_is_measured(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = TARGETS.resolve("armv7")
    if not target.emulated:
        pytest.skip("this machine is an ARM itself")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotMeasured, match="apt-get install qemu-user"):
        target.run(folder, digits.golden_examples())
