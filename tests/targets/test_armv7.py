"""The delivery for 32-bit ARM Linux: one static program."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pocketpipe.delivery.metadata import DeliveryMetadata
from targets import digits
from targets.conftest import Delivered


@pytest.fixture(scope="module")
def folder(delivered: Delivered) -> Path:
    return delivered("armv7", digits.quantized_file())


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
