"""The C compiler of a target: ziglang, which comes with pocketpipe, else a GNU compiler that is installed.

In this order on every machine, so that the machines agree on the bytes; which one it was is in the metadata.

Binaries are linked without a C library where they can do without, which is nearly always: kernels call nothing. Then
the library loads beside any C library, and ziglang need not build one, which takes it most of a minute the first time.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from pocketpipe.delivery.compiling import complaint, zig_cc
from pocketpipe.errors import UserError

OLDEST_GLIBC = "2.17"
"""A library that does need functions of libm loads wherever the C library is at least this old (2012)."""

COMPILE = ("-O2", "-g0", "-std=gnu11", "-fno-builtin", "-fno-stack-protector")
LINK = ("-s", "-Wl,--build-id=none", "-Wl,-z,noexecstack", "-Wl,-z,defs")
EXPORTS = "exports.map"
MEMORY = "memory.c"
START = {"aarch64": "linux_aarch64.c", "arm": "linux_arm.c"}
"""By machine: how a program starts and calls the system without a C library."""

ABI = {"arm": "eabihf"}
"""By machine: what comes after the name of the C library in its triple."""


@dataclass(frozen=True)
class Toolchain:
    """A C compiler that makes shared libraries and static programs for one kind of machine."""

    machine: str
    name: str
    """With its version, for the metadata."""
    shared: tuple[str, ...]
    """Command line up to the options, for a shared library."""
    static: tuple[str, ...]
    archiver: tuple[str, ...]
    """Command line up to the options."""

    def link_library(
        self,
        sources: Sequence[str],
        output: str,
        exports: str,
        folder: Path,
        options: Sequence[str] = (),
        libraries: Sequence[str] = (),
    ) -> None:
        """Make a shared library of C and object files in `folder`; `exports`: a linker version script.

        `options`: more options for compiling. `libraries`: options for linking what the sources need of the system.
        """
        (folder / EXPORTS).write_text(exports)
        self._compile((*self.shared, *COMPILE, "-fPIC", *options), (*sources, MEMORY), folder)
        linking = ("-shared", f"-Wl,--version-script={EXPORTS}", "-o", output)
        self._link((*self.shared, *LINK, *linking), sources, (MEMORY,), folder, libraries)

    def archive(self, sources: Sequence[str], output: str, folder: Path) -> None:
        """Make a static library of what `link_library` has compiled."""
        self._must((*self.archiver, "rcsD", output, *map(_object, sources)), folder)

    def link_program(
        self,
        sources: Sequence[str],
        output: str,
        folder: Path,
        options: Sequence[str] = (),
        libraries: Sequence[str] = (),
    ) -> None:
        """Make a program of C and object files in `folder` that needs no library where it runs (see `link_library`)."""
        instead = (MEMORY, START[self.machine])
        self._compile((*self.static, *COMPILE, *options), (*sources, *instead), folder)
        self._link((*self.static, *LINK, "-static", "-o", output), sources, instead, folder, libraries)

    def for_cpu(self, model: str) -> tuple[str, ...]:
        """Options that let the compiler vectorize for a CPU by LLVM's name of it."""
        if self.name.startswith("ziglang"):
            return ("-O3", f"-mcpu={model.replace('-', '_')}")
        return ("-O3", f"-march={model}" if self.machine == "x86_64" else f"-mcpu={model}")

    def _compile(self, command: Sequence[str], sources: Sequence[str], folder: Path) -> None:
        """Compile the C files among `sources`; apart from linking, where ziglang would hide the headers as well."""
        for name in (MEMORY, *START.values()):
            (folder / name).write_text((files("pocketpipe.targets") / name).read_text())
        for source in sources:
            if source.endswith(".c"):
                self._must((*command, "-c", source, "-o", _object(source)), folder)

    def _link(
        self,
        command: Sequence[str],
        sources: Sequence[str],
        instead: Sequence[str],
        folder: Path,
        libraries: Sequence[str],
    ) -> None:
        """Link `sources` with what stands for a C library; if that is not enough, with the C library."""
        bare = (*command, "-nostdlib", *map(_object, (*sources, *instead)))
        if libraries or _call(bare, folder).returncode != 0:
            self._must((*command, *map(_object, sources), "-lm", *libraries), folder)

    def _must(self, command: Sequence[str], folder: Path) -> None:
        must_compile(self.name, command, folder)


def _object(source: str) -> str:
    return source.removesuffix(".c").removesuffix(".o") + ".o"


def must_compile(compiler: str, command: Sequence[str], folder: Path) -> None:
    """Carry out a compiler's `command` in `folder`. Raises UserError with what it said, if it fails."""
    done = _call(command, folder)
    if done.returncode != 0:
        raise UserError(f"{compiler} failed: {complaint(done.stderr)}")


def _call(command: Sequence[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    # Only names within `folder` are given, so that no path of this machine can get into the output.
    environment = {**os.environ, "ZIG_LOCAL_CACHE_DIR": str(folder / "zig-cache"), "SOURCE_DATE_EPOCH": "0"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def find_toolchain(machine: str) -> Toolchain:
    """The toolchain for `machine` (x86_64, aarch64, arm). Quick. Raises UserError if there is none."""
    abi = ABI.get(machine, "")
    zig = ziglang()
    if zig is not None:
        name, command = zig
        to = (*command, "-target")
        shared, static = (*to, f"{machine}-linux-gnu{abi}.{OLDEST_GLIBC}"), (*to, f"{machine}-linux-musl{abi}")
        return Toolchain(machine, name, shared, static, (command[0], "ar"))
    for compiler in (f"{machine}-linux-gnu{abi}-gcc", *(("gcc",) if machine == os.uname().machine else ())):
        if shutil.which(compiler):
            archiver = compiler.removesuffix("gcc") + "ar"
            return Toolchain(machine, gnu_name(compiler), (compiler,), (compiler,), (archiver,))
    raise UserError(f"no C compiler for {machine}; `pip install ziglang` brings one")


def ziglang() -> tuple[str, tuple[str, ...]] | None:
    """(name with version, command line up to the target) of the compiler that comes with pocketpipe."""
    command = zig_cc()
    return None if command is None else (f"ziglang {version('ziglang')}", command)


def gnu_name(compiler: str) -> str:
    """Name with version of a GNU compiler that is installed."""
    answer = subprocess.run((compiler, "-dumpfullversion"), capture_output=True, text=True, check=True)
    return f"{compiler} {answer.stdout.strip()}"


def as_engine(compiler: str) -> dict[str, str]:
    """A compiler that is called by name and version, as metadata tells it.

    >>> as_engine("ziglang 0.16.0")
    {'ziglang': '0.16.0'}
    """
    name, _, number = compiler.partition(" ")
    return {name: number}
