"""A delivery folder: what lies in it, and how it comes to be whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

from pocketpipe.delivery.metadata import METADATA_FILE, DeliveryMetadata

HEADER, RUNNER_SOURCE, README = "pocketpipe_model.h", "runner.c", "README.md"


@contextmanager
def appearing_whole(folder: Path) -> Iterator[Path]:
    """A hidden sibling to write into, which becomes `folder` when the block ends without an error.

    What killed processes left behind is removed first; another process at the same work is not disturbed.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for abandoned in folder.parent.glob(f".{folder.name}.*.partial"):
        if not _is_running(abandoned.name.split(".")[-2]):
            shutil.rmtree(abandoned, ignore_errors=True)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_sources(folder: Path, *, inputs: int, outputs: int, arena: int) -> None:
    """The header with the model's sizes (float32 numbers, float32 numbers, bytes), and the runner."""
    templates = files("pocketpipe.delivery")
    header = (templates / HEADER).read_text()
    for name, size in (("@INPUTS@", inputs), ("@OUTPUTS@", outputs), ("@ARENA@", arena)):
        header = header.replace(name, str(size))
    (folder / HEADER).write_text(header)
    (folder / RUNNER_SOURCE).write_text((templates / RUNNER_SOURCE).read_text())


def write_readme(folder: Path, metadata: DeliveryMetadata, *, build: str, run: str) -> None:
    """A README that says what this is; `build` and `run` are command lines for the runner."""
    (folder / README).write_text(_readme(metadata, build=build, run=run))


def _readme(metadata: DeliveryMetadata, *, build: str, run: str) -> str:
    footprint = metadata.footprint
    assert footprint is not None, "the target fills in the footprint before it describes it"
    preprocessing = metadata.preprocessing
    shape, output = (" x ".join(map(str, axes)) for axes in (metadata.input_shape, metadata.output_shape))
    return f"""# {metadata.network} for {metadata.task}, compiled for {metadata.target}

`model.so` holds code and weights and needs no other library of ours. Compiled for {metadata.cpu}.

| what | bytes |
|---|---|
| library (`model.so`) | {footprint.library:,} |
| of which weights | {footprint.weights:,} |
| working memory of one inference | {footprint.arena:,} |

One example: {shape}, stored as {metadata.input_dtype}.
Before the model: `(x * {preprocessing.scale!r} - mean) / std` in float32, mean {list(preprocessing.mean)},
std {list(preprocessing.std)} (one for all, or one for each index of the first axis).
Output: {output} float32, in the order of `labels` in `{METADATA_FILE}`.

## From Python

```python
import pocketpipe

outputs = pocketpipe.load("this folder")(examples)  # examples as stored; preprocessing included; needs NumPy only
```

## From C

`{HEADER}` declares the functions; `{RUNNER_SOURCE}` shows their use on a file of raw float32 examples, preprocessed:

```sh
{build}
{run}
```

`{METADATA_FILE}` holds shapes, labels, preprocessing and the SHA-256 of what this was made from.
"""


def _is_running(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except PermissionError:
        return True
    except (ProcessLookupError, ValueError):
        return False
    return True
