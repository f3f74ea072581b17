"""Fingerprints: a short name for everything that a result depends on."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from enum import Enum
from importlib import metadata
from pathlib import PurePath
from typing import Any

from pydantic import BaseModel

LENGTH = 16


def fingerprint(**parts: Any) -> str:
    """16 hexadecimal digits of the SHA-256 over the canonical JSON of `parts`.

    Taken are JSON's own values, tuples, sets, paths, enumerations, pydantic values and dataclasses, nested at will.
    Raises TypeError for anything else, and for what JSON cannot tell apart (keys that are no text, nan).

    >>> fingerprint(seed=0, widths=(8, 16)) == fingerprint(widths=[8, 16], seed=0)
    True
    >>> fingerprint(seed=0) == fingerprint(seed=1)
    False
    >>> fingerprint(model=object())
    Traceback (most recent call last):
    TypeError: model: a value of type object has no canonical form
    """
    content = {name: _canonical(value, name) for name, value in parts.items()}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]


def engine_versions(names: Iterable[str]) -> dict[str, str]:
    """Version of each installed distribution, "absent" for one that is not installed.

    >>> engine_versions(["no-such-engine"])
    {'no-such-engine': 'absent'}
    """
    return {name: _version(name) for name in sorted(names)}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"


def _canonical(value: Any, where: str) -> Any:
    # An enumeration before text and numbers: its members may be these too.
    if isinstance(value, Enum):
        return _canonical(value.value, where)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{where}: {value} has no canonical form")
        return value
    if isinstance(value, PurePath):
        return value.as_posix()
    if isinstance(value, Mapping):
        return {_key(key, where): _canonical(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, set | frozenset):
        return sorted((_canonical(item, where) for item in value), key=lambda item: json.dumps(item, sort_keys=True))
    fields = _fields(value)
    if fields is None:
        raise TypeError(f"{where}: a value of type {type(value).__name__} has no canonical form")
    # The class is part of it: two steps with the same parameters are different steps.
    return {"": type(value).__qualname__} | {name: _canonical(item, f"{where}.{name}") for name, item in fields.items()}


def _fields(value: Any) -> dict[str, Any] | None:
    if isinstance(value, BaseModel):
        return {name: getattr(value, name) for name in type(value).model_fields} | (value.model_extra or {})
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return None


def _key(key: Any, where: str) -> str:
    if not isinstance(key, str):
        raise TypeError(f"{where}: the key {key!r} is no text, and has no canonical form")
    return key
