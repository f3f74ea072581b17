"""The C compiler of a target: ziglang, which comes with pocketpipe, else a GNU compiler that is installed.

In this order on every machine, so that the machines agree on the bytes; which one it was is in the metadata.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from pocketpipe.errors import UserError

OLDEST_GLIBC = "2.17"
"""The library loads wherever the C library is at least this old (2012)."""

REPRODUCIBLE = ("-O2", "-g0", "-s", "-std=gnu11", "-Wl,--build-id=none", "-Wl,-z,noexecstack")


@dataclass(frozen=True)
class Toolchain:
    """A C compiler that makes shared libraries and static programs for one kind of machine."""

    name: str
    """With its version, for the metadata."""
    shared: tuple[str, ...]
    """Command line up to the sources, for a shared library."""
    static: tuple[str, ...]

    def link_library(self, sources: Sequence[str], output: str, exports: str, folder: Path) -> None:
        """Make a shared library of C and object files in `folder`; `exports`: a linker version script."""
        script = f"-Wl,--version-script={exports}"
        self._call((*self.shared, *REPRODUCIBLE, "-shared", "-fPIC", script, *sources, "-o", output, "-lm"), folder)

    def link_program(self, sources: Sequence[str], output: str, folder: Path) -> None:
        """Make a program of C and object files in `folder` that needs no library where it runs."""
        self._call((*self.static, *REPRODUCIBLE, "-static", *sources, "-o", output, "-lm"), folder)

    def _call(self, command: tuple[str, ...], folder: Path) -> None:
        # Only names within `folder` are given, so that no path of this machine can get into the output.
        environment = {**os.environ, "ZIG_LOCAL_CACHE_DIR": str(folder / "zig-cache"), "SOURCE_DATE_EPOCH": "0"}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            reason = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip()[-200:])
            raise UserError(f"{self.name} could not link the model: {reason}")


def find_toolchain(machine: str) -> Toolchain:
    """The toolchain for `machine` (x86_64, aarch64). Quick. Raises UserError if there is none."""
    if importlib.util.find_spec("ziglang") is not None:
        zig = (sys.executable, "-m", "ziglang", "cc", "-target")
        shared = (*zig, f"{machine}-linux-gnu.{OLDEST_GLIBC}")
        return Toolchain(f"ziglang {version('ziglang')}", shared, (*zig, f"{machine}-linux-musl"))
    for compiler in (f"{machine}-linux-gnu-gcc", *(("gcc",) if machine == os.uname().machine else ())):
        if shutil.which(compiler):
            answer = subprocess.run((compiler, "-dumpfullversion"), capture_output=True, text=True, check=True)
            return Toolchain(f"{compiler} {answer.stdout.strip()}", (compiler,), (compiler,))
    raise UserError(f"no C compiler for {machine}; `pip install ziglang` brings one")
