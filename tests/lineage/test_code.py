"""The code digest against Python's own importer, and against every kind of edit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pocketpipe.errors import UserError
from pocketpipe.lineage.code import code_of


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's package `ours_<n>` that imports in every way there is; returns its folder."""
    package = tmp_path / f"ours_{tmp_path.name}"
    files = {
        "__init__.py": "",
        "networks.py": (
            "from __future__ import annotations\n"
            "from typing import TYPE_CHECKING\n"
            "import json, torch\n"
            "from . import layers\n"
            "from .blocks.residual import Residual\n"
            "import pocketpipe.cost\n"
            "if TYPE_CHECKING:\n    from .only_types import Thing\n"
            "def build():\n    from .late import depth\n    return depth\n"
        ),
        "layers.py": "import beside\nWIDTH = 3\n",
        "blocks/__init__.py": "",
        "blocks/residual.py": "from ..shared import *\nclass Residual: ...\n",
        "shared.py": "TEMPLATE = 'shared.txt'\n",
        "shared.txt": "one\n",
        "late.py": "depth = 2\n",
        "only_types.py": "class Thing: ...\n",
        "unrelated.py": "x = 1\n",
        "../beside.py": "y = 1\n",
    }
    for name, text in files.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return package


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))


def digest(user: Path) -> str:
    return code_of([f"{user.name}.networks"]).digest


def test_closure_follows_every_form_of_import(user: Path) -> None:
    name = user.name
    closure = code_of([f"{name}.networks"]).modules
    assert {module for module in closure if not module.startswith("pocketpipe")} == {
        name,
        f"{name}.networks",
        f"{name}.layers",
        f"{name}.blocks",
        f"{name}.blocks.residual",
        f"{name}.shared",
        f"{name}.late",
        "beside",
        "torch",  # its version
    }
    assert {"pocketpipe", "pocketpipe.cost", "pocketpipe.doors"} <= set(closure)


def test_closure_is_found_without_importing(user: Path) -> None:
    code_of([f"{user.name}.networks"])
    assert not any(module.startswith(user.name) for module in sys.modules)


@pytest.mark.parametrize("module", ["pocketpipe.lineage.verify", "pocketpipe.champion", "pocketpipe.pipeline_registry"])
def test_closure_covers_what_the_importer_loads(module: str) -> None:
    """Independent truth: the modules that Python really loads, but for the lazy ones, are in the closure."""
    script = (
        f"import json, sys, {module}; print(json.dumps([m for m in sys.modules if m.split('.')[0] == 'pocketpipe']))"
    )
    loaded = json.loads(
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    )
    assert set(loaded) <= set(code_of([module]).modules)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("networks.py", "return depth", "return depth + 1"),
        ("layers.py", "3", "4"),
        ("blocks/__init__.py", "", "z = 1\n"),
        ("shared.py", "shared.txt", "other.txt"),
        ("shared.txt", "one", "two"),
        ("late.py", "2", "3"),
        ("../beside.py", "1", "2"),
    ],
)
def test_edits_that_count(user: Path, file: str, old: str, new: str) -> None:
    before = digest(user)
    assert digest(user) == before
    edit(user / file, old, new) if old else (user / file).write_text(new)
    assert digest(user) != before


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("layers.py", "WIDTH = 3", "WIDTH  =  3  # channels"),
        ("layers.py", "WIDTH = 3", "WIDTH = 3\n\n"),
        ("late.py", "depth = 2", 'depth = 2\n"""Of the network."""'),
        ("networks.py", "def build():\n", 'def build():\n    """The network."""\n'),
        ("only_types.py", "class Thing: ...", "class Thing:\n    x = 1"),
        ("unrelated.py", "1", "2"),
    ],
)
def test_edits_that_do_not_count(user: Path, file: str, old: str, new: str) -> None:
    before = digest(user)
    edit(user / file, old, new)
    assert digest(user) == before


def test_same_code_elsewhere_has_the_same_digest(user: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = f"from pocketpipe.lineage.code import code_of; print(code_of(['{user.name}.networks']).digest)"
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    before = digest(user)
    user.rename(moved / user.name)
    (tmp_path / "beside.py").rename(moved / "beside.py")
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": os.pathsep.join([str(moved), *sys.path])},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.strip() == before, done.stderr


def test_module_named_in_a_text_is_followed(user: Path) -> None:
    """What is started as `python -m NAME` is part of the stage, though no import names it."""
    before = digest(user)
    edit(user / "late.py", "depth = 2", f"depth = 2\nWORKER = '{user.name}.unrelated'")
    assert f"{user.name}.unrelated" in code_of([f"{user.name}.networks"]).modules
    assert digest(user) != before


@pytest.mark.parametrize(
    ("files", "read"),
    [
        ({"late.py": "TEXT = files('{package}.blocks') / 'kernels.h'"}, "blocks/kernels.h"),
        ({"late.py": "from . import blocks\nTEXT = files(blocks) / 'kernels.h'"}, "blocks/kernels.h"),
        ({"late.py": "TEXT = files('{package}') / 'plain' / 'kernels.h'"}, "plain/kernels.h"),
        ({"late.py": "TEXT = files('{package}.plain') / 'kernels.h'"}, "plain/kernels.h"),
        ({"late.py": "TEXT = Path(__file__).parent / 'plain/kernels.h'"}, "plain/kernels.h"),
        ({"late.py": "TEXT = Path(__file__).parent / 'plain' / 'deep' / 'kernels.h'"}, "plain/deep/kernels.h"),
        ({"shared.py": "NAME = 'kernels.h'", "blocks/residual.py": "from ..shared import NAME"}, "blocks/kernels.h"),
        ({"late.py": "PAGE = 'page.jinja'", "page.jinja": "{{% include 'style.jinja' %}}"}, "style.jinja"),
        ({"late.py": "C = 'plain/a.c'", "plain/a.c": '#include "b.h"', "plain/b.h": '#include "c.h"'}, "plain/c.h"),
    ],
)  # fmt: skip
def test_files_that_code_reads_count(user: Path, files: dict[str, str], read: str) -> None:
    """Templates and C sources, named in whatever way: beside the module, of another package, by another file."""
    for name, text in (files | {read: "one"}).items():
        (user / name).parent.mkdir(parents=True, exist_ok=True)
        (user / name).write_text(text.format(package=user.name))
    before = digest(user)
    assert digest(user) == before
    (user / read).write_text("two")
    assert digest(user) != before


def test_files_that_no_code_names_do_not_count(user: Path) -> None:
    for name in ("README.md", "blocks/kernels.h", "plain/kernels.h"):
        (user / name).parent.mkdir(parents=True, exist_ok=True)
        (user / name).write_text("one")
    before = digest(user)
    for name in ("README.md", "blocks/kernels.h", "plain/kernels.h"):
        (user / name).write_text("two")
    assert digest(user) == before


def test_what_the_house_names_is_no_file_of_the_users(user: Path) -> None:
    """A module in the root of a project must not be made anew because the README beside it says something else."""
    edit(user / "late.py", "depth = 2", "from pocketpipe.delivery.folder import README")
    (user / "README.md").write_text("one")
    before = digest(user)
    (user / "README.md").write_text("two")
    assert digest(user) == before


def test_lazy_attributes_of_a_package_are_not_followed() -> None:
    """`pocketpipe.load` is offered by every import of pocketpipe; a change of the loader must not retrain a teacher."""
    assert code_of(["pocketpipe"]).modules == ("pocketpipe",)


def test_installed_module_counts_by_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before = code_of(["torch.nn"]).digest
    assert code_of(["torch.nn"]).modules == ("torch.nn",)
    monkeypatch.setattr("pocketpipe.lineage.code.metadata.version", lambda name: "0.0.1")
    assert code_of(["torch.nn"]).digest != before


def test_packages_that_the_users_modules_import_count_by_their_version(
    user: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = digest(user)  # its networks import torch
    house = code_of(["pocketpipe.training.module"]).digest
    monkeypatch.setattr("pocketpipe.lineage.code.metadata.version", lambda name: "0.0.1")
    assert digest(user) != before
    assert code_of(["pocketpipe.training.module"]).digest == house, "of what the house imports only engines count"


def test_missing_module_is_named() -> None:
    with pytest.raises(UserError, match=r"'no_such_module\.networks'.*not found"):
        code_of(["no_such_module.networks"])


def test_broken_source_is_named_with_its_line(user: Path) -> None:
    (user / "late.py").write_text("depth = 2\ndef build(:\n")
    with pytest.raises(UserError, match=r"late\.py:2: cannot be read as Python"):
        digest(user)
