"""Files that code reads and that are no Python: templates, C sources, linker scripts.

Code names such a file as a text, and one package's modules name it for each other: `files("ours.c") / NAME` may stand
far from `NAME = "kernels.h"`. So a file counts if it lies in a folder of the package's modules, or below one in folders
that are named too, and if a text of these modules, or of a file found so, is its name. A name that is put together at
run time is not found: write it out.
"""

import os
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from pocketpipe.hashing import file_digest

NAME = re.compile(r"[\w-][\w./-]*")
"""What a text must be like to name a file or a folder."""
_QUOTED = re.compile(rf"""["']({NAME.pattern})["']""")
_LARGEST_TEXT = 1 << 20
"""Bytes. What is larger is no template, and is not searched for names."""


def assets(folders: Iterable[Path], names: Iterable[str]) -> list[Path]:
    """The files that `names` name in `folders`, and those that these name in turn (`#include "..."`), sorted.

    `names` holds names of folders as well: "plain" and "a.c" together name `plain/a.c`.
    """
    places, known = set(folders), set(names)
    found: set[Path] = set()
    while True:
        places |= {folder for place in places for folder in _named(place, known) if folder.is_dir()}
        new = {file for place in places for file in _named(place, known) if file.is_file()} - found
        if not new:
            return sorted(found)
        found |= new
        places |= {file.parent for file in new}
        known |= {name for file in new for name in _names_within(file)}


def asset_digest(file: Path) -> str:
    """SHA-256 of a file, remembered until it changes."""
    status = file.stat()
    return _digest(file, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4096)
def _digest(file: Path, mtime_ns: int, size: int) -> str:
    return file_digest(file)


def _named(place: Path, names: set[str]) -> list[Path]:
    """What `names` name in a folder, but for Python's sources, which are followed as modules."""
    plain = [name for name in os.listdir(place) if name in names]
    paths = [name for name in names if "/" in name and (place / name).exists()]
    return [place / name for name in (*plain, *paths) if not name.endswith((".py", "/"))]


def _names_within(file: Path) -> list[str]:
    if file.stat().st_size > _LARGEST_TEXT:
        return []
    return _QUOTED.findall(file.read_text(errors="replace"))
