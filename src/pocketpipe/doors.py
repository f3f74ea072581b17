"""Doors: the one way in which a task, network, step, tuner or target becomes known by name.

A room's modules register what they offer; a user's own object is named `package.module:attribute`.
Adding one is adding a file to its room: the door finds it by importing the room's modules on first use.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from pocketpipe.errors import UserError

T = TypeVar("T")


def _origin(entry: Any) -> str:
    return f"{getattr(entry, '__module__', '?')}.{getattr(entry, '__qualname__', entry)}"


class Door(Generic[T]):
    """Names of one kind of thing, and what each name stands for.

    >>> door: Door[type] = Door("animal", room=None)
    >>> @door.register("cat")
    ... class Cat: ...
    >>> door.resolve("cat") is Cat
    True
    >>> door.resolve("collections:OrderedDict").__name__
    'OrderedDict'
    >>> door.resolve("cta")
    Traceback (most recent call last):
    pocketpipe.errors.UserError: animal 'cta' is unknown; did you mean 'cat'? ...
    """

    def __init__(self, kind: str, room: str | None) -> None:
        self.kind = kind
        self._room = room
        self._entries: dict[str, T] = {}
        self._discovered = room is None

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that makes `name` known. Raises ValueError if another object already has it."""

        def keep(entry: T) -> T:
            known = self._entries.setdefault(name, entry)
            if known is not entry and _origin(known) != _origin(entry):
                raise ValueError(f"{self.kind} {name!r} is registered twice: {_origin(known)} and {_origin(entry)}")
            self._entries[name] = entry
            return entry

        return keep

    def names(self) -> tuple[str, ...]:
        """All names that come with pocketpipe, sorted."""
        self._discover()
        return tuple(sorted(self._entries))

    def resolve(self, reference: str) -> T:
        """What `reference` stands for: a registered name, or `package.module:attribute`. Raises UserError."""
        if ":" in reference:
            return self._load(reference)
        self._discover()
        if reference not in self._entries:
            raise UserError(self._unknown(reference))
        return self._entries[reference]

    def modules_of(self, reference: str) -> tuple[str, ...]:
        """The modules that decide what `reference` is: their sources are part of a stage's fingerprint.

        The one that defines it, and the one that is named: an instance, say, whose class lies elsewhere.
        """
        defining = str(inspect.unwrap(self.resolve(reference)).__module__)  # type: ignore[arg-type]
        named = [reference.partition(":")[0]] if ":" in reference else []
        return tuple(dict.fromkeys([defining, *named]))

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True
        room = importlib.import_module(self._room or "")
        for module in pkgutil.iter_modules(room.__path__):
            importlib.import_module(f"{self._room}.{module.name}")

    def _load(self, reference: str) -> T:
        module_name, _, attribute = reference.partition(":")
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            missing = str(error.name)
            own = module_name == missing or module_name.startswith(f"{missing}.")
            hint = "is its folder on PYTHONPATH?" if own else f"it needs {missing!r}, which is not installed"
            raise UserError(f"{self.kind} {reference!r}: cannot import {module_name!r} ({error}); {hint}") from error
        except Exception as error:  # a user's module may fail in any way
            said = f"{type(error).__name__}: {error}"
            raise UserError(f"{self.kind} {reference!r}: importing {module_name!r} failed with {said}") from error
        if not hasattr(module, attribute):
            raise UserError(f"{self.kind} {reference!r}: module {module_name!r} has no {attribute!r}")
        entry: T = getattr(module, attribute)
        if isinstance(entry, str | int | float | list | tuple | dict):
            raise UserError(f"{self.kind} {reference!r}: it is a {type(entry).__name__}, not a {self.kind}")
        return entry

    def _unknown(self, reference: str) -> str:
        close = get_close_matches(reference, self._entries, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ";"
        known = ", ".join(sorted(self._entries))
        return f"{self.kind} {reference!r} is unknown{hint} Known: {known}; or your own as package.module:attribute"


def option_mistakes(factory: Callable[..., Any], options: dict[str, Any], *, where: str) -> list[str]:
    """Mistakes in `options` as keyword-only arguments of `factory`, a line each (empty if none).

    A factory's options are its keyword-only parameters; their annotations say what is allowed.

    >>> def build(root: str, *, size: int = 32) -> None: ...
    >>> for line in option_mistakes(build, {"size": "big", "colour": 1}, where="task.options"):
    ...     print(line)
    task.options.colour: 1 is not an option; options: size
    task.options.size: 'big': Input should be a valid integer, unable to parse string as an integer
    """
    parameters = {
        name: (_annotation(p, factory), ... if p.default is p.empty else p.default)
        for name, p in _signature(factory).parameters.items()
        if p.kind is p.KEYWORD_ONLY
    }
    config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
    model = create_model("Options", __config__=config, **parameters)  # type: ignore[call-overload]
    try:
        model.model_validate(options)
    except ValidationError as error:
        return sorted(describe_validation(error, where=where, allowed=tuple(parameters)))
    return []


def _signature(factory: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(factory, eval_str=True)
    except NameError:  # something beside the options is named that is imported for type checkers only
        return inspect.signature(factory)


def _annotation(parameter: inspect.Parameter, factory: Callable[..., Any]) -> Any:
    """What an option may be; anything, where its annotation cannot be looked up."""
    if parameter.annotation is parameter.empty:
        return Any
    if not isinstance(parameter.annotation, str):
        return parameter.annotation
    try:
        return eval(parameter.annotation, getattr(inspect.unwrap(factory), "__globals__", {}))
    except NameError:
        return Any


def describe_validation(error: ValidationError, *, where: str, allowed: tuple[str, ...] = ()) -> list[str]:
    """A line for each problem of a pydantic error: key path, value, what is allowed."""
    lines = []
    for problem in error.errors():
        path = ".".join(str(part) for part in (*filter(None, [where]), *problem["loc"]))
        if problem["type"] == "extra_forbidden":
            options = ", ".join(allowed) or "none"
            lines.append(f"{path}: {problem['input']!r} is not an option; options: {options}")
        elif problem["type"] == "missing":
            lines.append(f"{path}: missing; it must be given")
        elif problem["type"] == "union_tag_not_found":
            lines.append(f"{path}.{problem['ctx']['discriminator'].strip(chr(39))}: missing; it must be given")
        elif problem["type"] == "union_tag_invalid":
            tag, key = problem["ctx"]["tag"], problem["ctx"]["discriminator"].strip("'")
            lines.append(f"{path}.{key}: {tag!r} is unknown; known: {problem['ctx']['expected_tags']}")
        elif problem["type"] == "tuple_type":
            lines.append(f"{path}: {problem['input']!r}: it must be a list, as in [{problem['input']}]")
        elif problem["type"] == "value_error" and problem["input"] and isinstance(problem["input"], dict):  # a section
            lines.append(f"{path}: {problem['msg'].removeprefix('Value error, ')}")
        elif problem["type"] in ("model_type", "model_attributes_type"):
            lines.append(f"{path}: {problem['input']!r}: it must be a section, with its options in braces or below it")
        else:
            lines.append(f"{path}: {problem['input']!r}: {problem['msg'].removeprefix('Value error, ')}")
    return lines


class Value(BaseModel):
    """Base of the values: frozen, typed, unknown keys refused, JSON both ways."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")
