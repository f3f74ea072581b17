"""The delivery for a bare Cortex-M, on the board that QEMU emulates."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from pocketpipe.delivery.metadata import DeliveryMetadata
from pocketpipe.errors import UserError
from pocketpipe.targets.base import TARGETS
from pocketpipe.targets.cortex_m import CortexM
from targets import digits
from targets.conftest import Delivered

GNU, EMULATOR = "arm-none-eabi-gcc", "qemu-system-arm"
needs_gnu = pytest.mark.skipif(not shutil.which(GNU), reason="needs gcc-arm-none-eabi")
needs_emulator = pytest.mark.skipif(not shutil.which(EMULATOR), reason="needs qemu-system-arm")


def compiled(folder: Path) -> Path:
    TARGETS.resolve("cortex_m").compile(
        digits.quantized_file(), digits.metadata("cortex_m"), folder, digits.golden_examples()
    )
    return folder


@pytest.fixture(scope="module")
def folder(delivered: Delivered) -> Path:
    return delivered("cortex_m", digits.quantized_file())


def test_a_network_that_the_board_has_no_room_for_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pocketpipe.targets.cortex_m.BOARD_BYTES", 1000)
    with pytest.raises(UserError, match=r"target cortex_m: weights and tables take .* the board has 1,000"):
        compiled(tmp_path / "cortex_m")
    assert not (tmp_path / "cortex_m").exists()


@needs_gnu
def test_flash_and_ram_are_those_of_the_sections(folder: Path) -> None:
    listed = subprocess.run(
        ["arm-none-eabi-size", "-A", folder / "model.elf"], capture_output=True, text=True, check=True
    ).stdout
    size = {name: int(length) for name, length in re.findall(r"^(\.\w+)\s+(\d+)", listed, re.MULTILINE)}
    footprint = DeliveryMetadata.read(folder).footprint
    assert footprint is not None
    assert footprint.flash == size[".text"] + size[".data"]
    assert footprint.ram == size[".stack"] + size[".data"] + size[".bss"]
    assert footprint.weights < footprint.flash < footprint.weights + 4000
    assert footprint.arena + 2048 < footprint.ram < footprint.arena + 2048 + 200


@needs_gnu
@needs_emulator
def test_the_readme_builds_the_image_with_another_compiler(folder: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(folder, tmp_path / "out"))
    lines = (copied / "README.md").read_text().split("```sh\n")[2].split("```")[0]
    subprocess.run(["sh", "-ec", lines], cwd=copied, check=True)
    assert (copied / "own.elf").read_bytes() != (folder / "model.elf").read_bytes()
    assert (copied / "model.elf").read_bytes() == (folder / "model.elf").read_bytes()


@needs_gnu
def test_the_stack_is_large_enough_for_every_way_through_the_calls(folder: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(folder, tmp_path / "out"))
    options = ("-mcpu=cortex-m4", "-mthumb", "-ffreestanding", "-Os", "-fstack-usage", "-c")
    for source in ("cortex_m.c", "model.c"):
        subprocess.run([GNU, *options, source], cwd=copied, check=True)
    frames = [int(line.split("\t")[1]) for file in copied.glob("*.su") for line in file.read_text().splitlines()]
    assert len(frames) > 5
    assert sum(frames) < 2048  # nothing is called twice on one way


@needs_gnu
def test_gnu_compiler_does_where_ziglang_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pocketpipe.delivery.compiling.importlib.util.find_spec", lambda name: None)
    compiled(tmp_path / "out")
    assert set(DeliveryMetadata.read(tmp_path / "out").engines) == {GNU}


def test_no_compiler_is_said_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    TARGETS.resolve("cortex_m").check()
    monkeypatch.setattr("pocketpipe.delivery.compiling.importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="no C compiler for a bare Cortex-M; `pip install ziglang` brings one"):
        TARGETS.resolve("cortex_m").check()


def test_faster_code_takes_more_flash_and_gives_the_same_integers(folder: Path, tmp_path: Path) -> None:
    fast = CortexM(optimize="-O2")
    fast.compile(digits.quantized_file(), digits.metadata("cortex_m"), tmp_path / "out", digits.golden_examples())
    small, large = (DeliveryMetadata.read(each).footprint for each in (folder, tmp_path / "out"))
    assert small is not None
    assert large is not None
    assert small.flash is not None
    assert large.flash is not None
    assert small.flash < large.flash < small.flash + 20_000
    assert "-mthumb -O2 " in (tmp_path / "out" / "README.md").read_text()
    assert "-mthumb -Os " in (folder / "README.md").read_text()
    if shutil.which(EMULATOR):
        stored = digits.data()[1].inputs[:8]
        assert np.array_equal(fast.run(tmp_path / "out", stored), digits.right(stored))


@needs_emulator
@pytest.mark.parametrize("cut", [None, -3])
def test_the_image_ends_with_an_error_where_examples_are_missing_or_cut_short(
    folder: Path, tmp_path: Path, cut: int | None
) -> None:
    command = TARGETS.resolve("cortex_m").command(folder)
    if cut is not None:
        (tmp_path / "input.bin").write_bytes(digits.data()[1].inputs[:2].tobytes()[:cut])
    assert subprocess.run(command, cwd=tmp_path, check=False, capture_output=True).returncode == 1
    (tmp_path / "input.bin").write_bytes(digits.data()[1].inputs[:2].tobytes())
    assert subprocess.run(command, cwd=tmp_path, check=False, capture_output=True).returncode == 0
    assert (tmp_path / "output.bin").stat().st_size == 20


def test_an_option_that_is_none_is_refused() -> None:
    with pytest.raises(UserError, match=r"optimize='-Ofast' is not known; known: -Os, -O2, -O3"):
        CortexM(optimize="-Ofast")
