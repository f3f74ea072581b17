"""Weights that a user brings: safetensors, or a state_dict of torch.save. Never runs code from the file."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pocketpipe.errors import UserError, first_line

if TYPE_CHECKING:
    from pocketpipe.network import StoredNetwork
    from pocketpipe.task import Task

WRAPPER = "state_dict"
"""Under which Lightning keeps the weights."""

PICKLE = b"\x80"
"""First byte of a pickle, as it lies bare in files of older versions of torch."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of the file by name, on CPU. Raises UserError, one line that names the file.

    Of a checkpoint the one entry that is a state_dict is taken (`state_dict` of several). Words before all names are
    left to `network.load_weights`, which knows the network's own.
    """
    if not path.is_file():
        raise UserError(f"weights {path}: {'a folder' if path.is_dir() else 'there is no such file'}; name a file")
    state = _safetensors(path) if path.suffix == ".safetensors" else _state_dict(path)
    return state


def with_weights_of(path: Path, network: StoredNetwork, task: Task) -> StoredNetwork:
    """`network` with the weights in the file, in the number formats of its own. Raises UserError if they do not fit."""
    return network.with_weights(replace(network, state=read_weights(path)).build(task))


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        state: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"weights {path}: not a whole safetensors file ({first_line(error)}); copy it again") from error
    return state


def _state_dict(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on the pickle protocol
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # on bytes that it did not write, torch's reader raises whatever it stumbles over
        raise UserError(f"weights {path}: {_why_refused(path, error)}") from error
    if not isinstance(content, Mapping):
        raise UserError(f"weights {path}: holds a {type(content).__name__}, not a state_dict (names to tensors)")
    if not _are_weights(content):
        content = _taken_out(path, content)
    return {str(name): tensor for name, tensor in content.items()}


def _are_weights(content: object) -> bool:
    return isinstance(content, Mapping) and all(isinstance(value, Tensor) for value in content.values())


def _taken_out(path: Path, checkpoint: Mapping[Any, Any]) -> Mapping[Any, Tensor]:
    """The weights among what a training script has kept: optimizer, epoch. Raises UserError."""
    inside = {
        str(name): entry
        for name, entry in checkpoint.items()
        if isinstance(entry, Mapping) and entry and _are_weights(entry)
    }
    if WRAPPER in inside or len(inside) == 1:
        return inside.get(WRAPPER) or next(iter(inside.values()))
    wrong = next((name, type(entry).__name__) for name, entry in checkpoint.items() if not isinstance(entry, Tensor))
    which = f"several have weights ({', '.join(inside)})" if inside else f"{wrong[0]!r} is a {wrong[1]}, no tensor"
    raise UserError(
        f"weights {path}: of its entries ({', '.join(map(str, list(checkpoint)[:8]))}) {which}; save the "
        "network.state_dict() that is meant alone"
    )


def _why_refused(path: Path, error: Exception) -> str:
    if not zipfile.is_zipfile(path) and path.read_bytes()[:1] != PICKLE:
        return "neither safetensors (by its ending) nor a whole state_dict of torch.save"
    if isinstance(error, pickle.UnpicklingError):
        return "a pickle that holds more than tensors, which could run code; save network.state_dict() or safetensors"
    return f"damaged or cut off ({first_line(error)}); copy it again"
