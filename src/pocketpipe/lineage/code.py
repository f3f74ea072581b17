"""Digest of the code that a result depends on: the sources of some modules and of all that these import.

Imports are found in the source, nothing is imported or run. Followed are pocketpipe's own modules and the user's
(whatever lies neither in the standard library nor among installed packages). A door's choice is made at run time,
so the caller names the chosen modules (`Door.modules_of`).
"""

import hashlib
import importlib.util
import os
import site
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from pocketpipe.errors import UserError
from pocketpipe.lineage.assets import asset_digest, assets
from pocketpipe.lineage.source import ParsedSource, read_source

HOUSE = "pocketpipe"


@dataclass(frozen=True)
class Code:
    """The code that some modules depend on."""

    digest: str
    """SHA-256 over the sources."""
    modules: tuple[str, ...]
    """Names of all modules that it covers, sorted."""
    packages: frozenset[str] = frozenset()
    """Top-level names of all that these import, but for the standard library."""


def code_of(modules: Iterable[str]) -> Code:
    """The sources of `modules` and of all modules of pocketpipe and of the user that they import.

    >>> "pocketpipe.doors" in code_of(["pocketpipe.plan"]).modules
    True
    >>> code_of(["collections"]).modules
    ('collections',)

    Comments, layout and docstrings do not count; files of a package that its modules name (templates, C sources) do.
    Of a module among the installed packages only its package's version counts; so does that of packages that the
    user's modules import.
    Raises UserError for a module without source, or one that cannot be parsed.
    """
    reached = _follow(modules)
    lines = [f"{name}\0{source if isinstance(source, str) else source.digest}\n" for name, source in reached.items()]
    lines += [f"{name}\0{asset_digest(file)}\n" for name, file in _assets(reached).items()]
    digest = hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()
    return Code(digest, tuple(sorted(reached)), _packages(reached))


def _packages(reached: Mapping[str, ParsedSource | str]) -> frozenset[str]:
    sources = [source for source in reached.values() if isinstance(source, ParsedSource)]
    tops = {found.partition(".")[0] for source in sources for found in source.imports}
    return frozenset(tops - sys.stdlib_module_names)


def _follow(modules: Iterable[str]) -> dict[str, ParsedSource | str]:
    """Every module reached: its source, or (for an installed one that was asked for by name) its version."""
    reached: dict[str, ParsedSource | str] = {}
    seen: set[str] = set()
    waiting = []
    for name in modules:
        if _is_followed(name.partition(".")[0]):
            waiting.append(name)
        else:
            reached[name] = _installed_version(name)
    for name in waiting:
        if _locate(name) is None:
            raise UserError(f"module {name!r}: its source is not found, so its changes cannot be noticed")
    while waiting:
        name = waiting.pop()
        if name in seen:  # before its file is looked for: most names come up many times
            continue
        seen.add(name)
        path = _locate(name)
        if name in reached or path is None:  # `from package import attribute` names no module
            continue
        source = read_source(path, name)
        reached[name] = source
        waiting.extend(name[:at] for at, letter in enumerate(name) if letter == ".")
        tops = {found: found.partition(".")[0] for found in source.imports}
        waiting.extend(found for found, top in tops.items() if _is_followed(top))
        if name.partition(".")[0] != HOUSE:  # of what the house imports only engines count (`freshness.ENGINES`)
            installed = {top for top in tops.values() if not _is_followed(top) and top not in sys.stdlib_module_names}
            reached |= {top: _installed_version(top) for top in installed}
        waiting.extend(found for found in source.mentions if found.partition(".")[0] in {HOUSE, name.partition(".")[0]})
    return reached


def _assets(reached: Mapping[str, ParsedSource | str]) -> dict[str, Path]:
    """The files that modules read, by a name that is the same wherever the package lies; package by package."""
    packages: dict[str, dict[str, ParsedSource]] = {}
    for name, source in reached.items():
        if isinstance(source, ParsedSource):
            packages.setdefault(name.partition(".")[0], {})[name] = source
    found: dict[str, Path] = {}
    for top, sources in packages.items():
        names = {name for source in sources.values() for name in source.names}
        homes = _homes(top, [top, *sources, *(name for name in names if name.partition(".")[0] == top)])
        root = min(homes, key=lambda folder: (len(folder.parts), folder))
        found |= {f"{top} {os.path.relpath(file, root)}": file for file in assets(homes, names)}
    return found


def _homes(top: str, names: Iterable[str]) -> set[Path]:
    """The folders that modules lie in, and those of packages without a module: `files("ours.templates")`."""
    found = _locate_top(top, tuple(sys.path))
    folders = found[1] if found else ()
    homes = {folder.joinpath(*name.split(".")[1:]) for folder in folders for name in names}
    files = [file for file in map(_locate, names) if file is not None]
    return {folder for folder in homes if folder.is_dir()} | {file.parent for file in files}


def _locate(name: str) -> Path | None:
    """Source file of a module, found without importing it; None if it has none. A namespace package has none."""
    top, *rest = name.split(".")
    found = _locate_top(top, tuple(sys.path))
    if found is None:
        return None
    file, folders = found
    for part in rest:
        for folder in folders:
            if (folder / part / "__init__.py").is_file():
                file, folders = folder / part / "__init__.py", (folder / part,)
                break
            if (folder / f"{part}.py").is_file():
                file, folders = folder / f"{part}.py", ()
                break
        else:
            inner = tuple(folder / part for folder in folders if (folder / part).is_dir())
            if not inner:
                return None
            file, folders = None, inner
    return file


@cache
def _locate_top(top: str, search_path: tuple[str, ...]) -> tuple[Path | None, tuple[Path, ...]] | None:
    """(source file, folders of its submodules) of a top-level module. `search_path` is there for the cache's sake."""
    importlib.invalidate_caches()
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:  # a module made by hand, without a spec
        return None
    if spec is None:
        return None
    file = Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    return file, tuple(Path(folder) for folder in spec.submodule_search_locations or ())


def _is_followed(top: str) -> bool:
    if top == HOUSE:
        return True
    if top in sys.stdlib_module_names:
        return False
    found = _locate_top(top, tuple(sys.path))
    if found is None:
        return True
    file, folders = found
    places = [file] if file else list(folders)
    return bool(places) and not any(place.is_relative_to(home) for place in places for home in _installed_homes())


@cache
def _installed_homes() -> tuple[Path, ...]:
    paths = [sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")]
    return tuple(Path(path) for path in [*paths, *site.getsitepackages(), site.getusersitepackages()])


@cache
def _owners() -> Mapping[str, list[str]]:
    """Distributions by top-level module."""
    return metadata.packages_distributions()


def _installed_version(name: str) -> str:
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names:
        return f"python {sys.version_info.major}.{sys.version_info.minor}"
    owners = _owners().get(top, [])
    return ", ".join(f"{owner} {metadata.version(owner)}" for owner in sorted(set(owners)))
