"""Networks and splits as files: JSON, safetensors and npz. No pickle; equal values give equal bytes.

Files and folders appear whole or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from pocketpipe import machine
from pocketpipe.errors import UserError
from pocketpipe.network import StoredNetwork
from pocketpipe.plan import CompressionPlan
from pocketpipe.task import Split

NETWORK_FILE = "network.json"
WEIGHTS_FILE = "weights.safetensors"


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A path to write to that becomes `file` at once when the block ends well, and vanishes when it does not.

    What killed processes left behind is removed first; another process at the same work is not disturbed.
    """
    partial = _partial(file)
    try:
        yield partial
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def appearing_whole(folder: Path, *, first_wins: bool = False) -> Iterator[Path]:
    """The same with a folder to write into, empty at first. `first_wins`: if there is one by then, that one stays."""
    partial = _partial(folder)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        if not first_wins:
            remove_whole(folder)
        try:
            os.replace(partial, folder)
        except OSError:
            if not (first_wins and folder.is_dir()):
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_whole(folder: Path) -> None:
    """Remove a folder, if it is there, for all readers at once: killed half way, it leaves no half in its place."""
    if not folder.is_dir():
        return
    partial = _partial(folder.with_name(f"{folder.name}.gone"))
    shutil.rmtree(partial, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):  # another process was quicker
        os.replace(folder, partial)
    shutil.rmtree(partial, ignore_errors=True)


ABANDONED_AFTER = 24 * 60 * 60
"""Seconds after which a partial of another host, container or boot, whose processes are not known here, is one of the
dead."""


PARTIAL = re.compile(r"\..+\.(?P<space>[0-9a-f]{12})\.(?P<writer>[0-9]+)\.partial")
"""What partials are called; files of that kind alone are ever removed, for they lie in users' folders too."""


def _partial(final: Path) -> Path:
    """A hidden sibling that names its writer, once those whose writers are dead are gone."""
    final.parent.mkdir(parents=True, exist_ok=True)
    here = machine.processes_known_as()
    for partial in final.parent.glob(".*.partial"):
        named = PARTIAL.fullmatch(partial.name)
        if named is None:
            continue
        with contextlib.suppress(OSError):
            known = named["space"] == here
            alive = machine.runs_here(int(named["writer"])) if known else _age(partial) < ABANDONED_AFTER
            if not alive:
                _remove(partial)
    return final.with_name(f".{final.name}.{here}.{os.getpid()}.partial")


def _age(path: Path) -> float:
    """Seconds since it was changed."""
    return time.time() - path.lstat().st_mtime


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_json(file: Path, content: object, *, sort_keys: bool = True) -> None:
    """Write a file of JSON; equal contents give equal bytes (with `sort_keys`, in whatever order keys came)."""
    with replacing(file) as partial:
        partial.write_text(json.dumps(content, indent=2, sort_keys=sort_keys) + "\n", encoding="utf-8")


def save_network(network: StoredNetwork, folder: Path) -> None:
    """Write `network.json` and `weights.safetensors`; the JSON, written last, holds the digest of the weights."""
    from safetensors.torch import save

    weights = save({name: tensor.contiguous() for name, tensor in network.state.items()})
    with replacing(folder / WEIGHTS_FILE) as partial:
        partial.write_bytes(weights)
    description = {
        "reference": network.reference,
        "options": network.options,
        "plan": json.loads(network.plan.to_json()),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    write_json(folder / NETWORK_FILE, description)


def load_network(folder: Path) -> StoredNetwork:
    """The network written by `save_network`. Raises UserError for files that are missing, broken or mixed up."""
    from safetensors.torch import load

    try:
        description = json.loads((folder / NETWORK_FILE).read_text())
        weights = (folder / WEIGHTS_FILE).read_bytes()
        reference, options, plan = (description[key] for key in ("reference", "options", "plan"))
        expected = description["weights_sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: cannot read the network ({error}); delete the folder and run again") from error
    if hashlib.sha256(weights).hexdigest() != expected:
        raise UserError(
            f"{folder / WEIGHTS_FILE}: not the weights that {NETWORK_FILE} describes; delete the folder and run again"
        )
    return StoredNetwork(reference, options, CompressionPlan.from_json(json.dumps(plan)), load(weights))


def save_split(split: Split, file: Path) -> None:
    """Write one split as an uncompressed npz (its entries carry no time)."""
    with replacing(file) as partial, partial.open("wb") as stream:
        np.savez(stream, allow_pickle=False, name=np.array(split.name), inputs=split.inputs, targets=split.targets)


def load_split(file: Path) -> Split:
    """The split written by `save_split`. Raises UserError for a file that is missing or broken."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return Split(str(arrays["name"]), arrays["inputs"], arrays["targets"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{file}: cannot read the split ({error}); delete the file and run again") from error
