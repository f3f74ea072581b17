"""What lies in a delivery folder."""

from importlib.resources import files
from pathlib import Path

from pocketpipe.delivery.metadata import DeliveryMetadata
from pocketpipe.delivery.readme import library_page
from pocketpipe.hashing import file_digest

HEADER, RUNNER_SOURCE, README = "pocketpipe_model.h", "runner.c", "README.md"
LOADER, LOADER_SOURCE = "pocketpipe_model.py", "model.py"
"""Not `model.py` beside `model.so`: Python would take the library for the module."""
CMAKE = "CMakeLists.txt"
GOLDEN, INPUTS, OUTPUTS = "golden", "inputs.bin", "outputs.bin"
"""A folder: `inputs.bin` as the runner takes them, and the `outputs.bin` that it must give."""
TOLERANCE = 1e-4
"""How far outputs in float32 may be from the golden ones, as a share of the largest of an example."""
MEASURED = "measured.json"
WITH_TIMES = (MEASURED, README)
"""Files with figures of the machine that compiled: no other would have the same, so no hash covers them."""

RUN, RUN_BYTES, CLOSE = "pocketpipe_run", "pocketpipe_run_bytes", "pocketpipe_close"
_BYTES = f"""
/* The same two for an example as it is stored, bytes: preprocessing is inside. */
int {RUN_BYTES}(const unsigned char *input, float *output);
void {RUN_BYTES}_in(void *arena, const unsigned char *input, float *output);
"""

_THREADS = f"""
/* The threads that share a call: the caller's and POCKETPIPE_THREADS - 1 of the library's own. These are created by the
   first call; between calls they sleep. One call has them at a time, another meanwhile runs on its caller's thread
   alone; so does every call where none can be created. Results are the same to the bit. After fork, the child's first
   call creates threads of its own. */
#define POCKETPIPE_THREADS @THREADS@

/* End the library's threads; unloading it does the same. The next call creates them anew. Returns 0, or 1 while a call
   has them. */
int {CLOSE}(void);
"""
_ONE, _SEVERAL = "no allocation, no threads, no files", "no allocation but of threads, no files"


_CMAKE_THREADS = """
set(THREADS_PREFER_PTHREAD_FLAG ON)
find_package(Threads REQUIRED)
target_link_libraries(${POCKETPIPE_TARGET} INTERFACE Threads::Threads)
"""


def write_sources(
    folder: Path, *, inputs: int, outputs: int, arena: int, takes_bytes: bool, threads: int, exact: bool
) -> None:
    """The header with the model's sizes (float32 numbers, float32 numbers, bytes), the runner, CMake's file for it, and
    the loader for Python.

    `takes_bytes`: whether the model has a way in for stored bytes; the runner takes it then. `threads`: that share a
    call. `exact`: whether golden outputs hold to the bit.
    """
    header = (files("pocketpipe.delivery") / HEADER).read_text()
    for name, size in (("@INPUTS@", inputs), ("@OUTPUTS@", outputs), ("@ARENA@", arena)):
        header = header.replace(name, str(size))
    header = header.replace("@BYTES@", _BYTES if takes_bytes else "").replace("@TEAM@", _THREADS if threads > 1 else "")
    header = header.replace("@NEEDS@", _SEVERAL if threads > 1 else _ONE).replace("@THREADS@", str(threads))
    (folder / HEADER).write_text(header)
    cmake = (files("pocketpipe.delivery") / CMAKE).read_text()
    (folder / CMAKE).write_text(cmake.replace("@THREADS@", _CMAKE_THREADS if threads > 1 else ""))
    (folder / LOADER).write_text((files("pocketpipe.delivery") / LOADER_SOURCE).read_text())
    entry, run = ("unsigned char", RUN_BYTES) if takes_bytes else ("float", RUN)
    tolerance = "0" if exact else f"{TOLERANCE:g}f"
    write_runner(
        folder, header=HEADER, run=run, inputs=(entry, inputs), outputs=("float", outputs), tolerance=tolerance
    )


def write_runner(
    folder: Path,
    *,
    header: str,
    run: str,
    inputs: tuple[str, int],
    outputs: tuple[str, int],
    tolerance: str = "0",
) -> None:
    """The runner for a model whose function `run` a header declares: C type and number of what it takes and gives.

    `tolerance`: C of how far outputs may be from golden ones, as a share of the largest.
    """
    runner = (files("pocketpipe.delivery") / RUNNER_SOURCE).read_text()
    runner = runner.replace("@HEADER@", header).replace("@RUN@", run).replace("@TOLERANCE@", tolerance)
    for side, (kind, count) in (("INPUT", inputs), ("OUTPUT", outputs)):
        runner = runner.replace(f"@{side}@", kind).replace(f"@{side}S@", str(count))
    (folder / RUNNER_SOURCE).write_text(runner)


def write_readme(folder: Path, metadata: DeliveryMetadata, *, build: str, run: str) -> None:
    """A README that says what a delivered library is; `build` and `run` are command lines for the runner."""
    (folder / README).write_text(library_page(metadata, header=HEADER, runner=RUNNER_SOURCE, build=build, run=run))


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file by its name within the folder, but for those with times."""
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    return {name: file_digest(folder / name) for name in names if name not in WITH_TIMES}


def folder_name(target: str) -> str:
    """Of a target's delivery; one of the user's is called `module:name`."""
    return target.replace(":", ".")


def write_golden(folder: Path, entering: bytes, leaving: bytes) -> None:
    """Golden vectors of a delivery: examples as it takes them, and what must come out."""
    (folder / GOLDEN).mkdir()
    (folder / GOLDEN / INPUTS).write_bytes(entering)
    (folder / GOLDEN / OUTPUTS).write_bytes(leaving)
