"""Delivered programs, run on files in a folder of their own."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from pocketpipe.errors import NotMeasured

INPUT, OUTPUT = "input.bin", "output.bin"
START, PATIENCE = 120, 60
"""Seconds for the start and for each example: an emulated program that takes longer hangs."""


def emulator(program: str, *, code: str, package: str) -> str:
    """Path of the emulator `program`, which `code` needs and `package` brings. Raises NotMeasured without it."""
    found = shutil.which(program)
    if found is None:
        raise NotMeasured(f"{code} needs {program} to be executed here; `apt-get install {package}` brings it")
    return found


def outputs_of(command: Sequence[str], entering: np.ndarray, kind: np.dtype) -> np.ndarray:
    """Numbers of type `kind`, flat, that `command` makes of `entering` (N, ...).

    It is called in a folder where `input.bin` lies, and leaves `output.bin` there. Raises RuntimeError with what it
    said if it fails, NotMeasured if it takes too long.
    """
    with tempfile.TemporaryDirectory(prefix="pocketpipe-") as folder:
        np.ascontiguousarray(entering).tofile(Path(folder, INPUT))
        limit = START + PATIENCE * len(entering)
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=limit)
        except subprocess.TimeoutExpired as error:
            raise NotMeasured(
                f"{Path(command[0]).name} took longer than {limit:g} s for {len(entering):,} examples; "
                "lower evaluate.emulated_examples, or measure on the device"
            ) from error
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()[-300:]}")
        return np.fromfile(Path(folder, OUTPUT), kind)


def outputs_in_slices(command: Sequence[str], entering: np.ndarray, kind: np.dtype) -> np.ndarray:
    """The same, with a slice of the examples for each CPU that this process may use."""
    slices = np.array_split(entering, min(len(os.sched_getaffinity(0)), max(len(entering), 1)))
    with ThreadPoolExecutor(len(slices)) as pool:
        return np.concatenate(list(pool.map(lambda part: outputs_of(command, part, kind), slices)))
