"""Instructions that an emulated processor executes, counted by a plugin of QEMU: a repeatable cost without a board."""

from __future__ import annotations

import platform
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np

from pocketpipe.errors import NotMeasured, UserError
from pocketpipe.targets.executing import outputs_of
from pocketpipe.targets.toolchain import find_toolchain, must_compile

PLUGIN, LIBRARY = "counting.c", "counting.so"
PIC = ("-O2", "-shared", "-fPIC")


def executed_instructions(command: Sequence[str], example: np.ndarray) -> Counter[str]:
    """Instructions for one example, by QEMU's name of them (its disassembler writes `.byte` for `sdot`).

    `command`: the emulator, its options and the program, as for `outputs_of`. `example` (1, ...): as that takes it.
    It is the difference between a run of three and a run of one, halved: start and files are taken out. Raises
    NotMeasured where the emulator takes no plugin.
    """
    with tempfile.TemporaryDirectory(prefix="pocketpipe-") as scratch:
        plugin = _plugin(Path(scratch), _interface(command[0]))
        three, one = (_counted(command, np.repeat(example, count, axis=0), plugin) for count in (3, 1))
    return Counter({name: (three[name] - one[name]) // 2 for name in three})


def instructions_of(command: Callable[[], Sequence[str]], example: np.ndarray) -> dict[str, float]:
    """All of them, as a target's figure; none where they cannot be had."""
    try:
        return {"instructions": float(executed_instructions(command(), example).total())}
    except NotMeasured:
        return {}


def _interface(emulator: str) -> int:
    """Version of the interface for plugins that the emulator takes: 2 from QEMU 9.0 on."""
    told = subprocess.run((emulator, "--version"), capture_output=True, text=True, check=False).stdout
    release = re.search(r"version (\d+)", told)
    return 2 if release is not None and int(release[1]) >= 9 else 1


def _plugin(folder: Path, version: int) -> Path:
    """Compiled for this machine, for this version of the interface."""
    (folder / PLUGIN).write_text((files("pocketpipe.targets") / PLUGIN).read_text())
    try:
        toolchain = find_toolchain(platform.machine())
        must_compile(toolchain.name, (*toolchain.shared, f"-DVERSION={version}", *PIC, PLUGIN, "-o", LIBRARY), folder)
    except UserError as error:
        raise NotMeasured(f"instructions are not counted: {error}") from error
    return folder / LIBRARY


def _counted(command: Sequence[str], examples: np.ndarray, plugin: Path) -> Counter[str]:
    """Of a whole run."""
    emulator, *rest = command
    log = plugin.with_name("counts")
    try:
        options = ("-plugin", str(plugin), "-d", "plugin", "-D", str(log))
        outputs_of((emulator, *options, *rest), examples, np.dtype(np.uint8))
        lines = [line.split() for line in log.read_text().splitlines()]
    except (RuntimeError, OSError) as error:
        raise NotMeasured(f"instructions are not counted: {error}") from error
    return Counter({name: int(count) for name, count in lines})
