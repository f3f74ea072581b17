"""Everything that can be known to go wrong is said before any work, all of it together."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pocketpipe import machine
from pocketpipe.config import Config, read_config
from pocketpipe.doors import option_mistakes
from pocketpipe.errors import Mistakes, UserError
from pocketpipe.network import NETWORKS
from pocketpipe.plan import STEPS
from pocketpipe.targets.base import TARGETS
from pocketpipe.task import TASKS

FREE_MEGABYTES = 200
"""Room that the outputs of a small run take, MLflow's copies included."""


def checked_config(parameters: dict[str, Any]) -> Config:
    """The parameters as typed values. Raises Mistakes with all that is wrong: types, keys, and unknown names too."""
    try:
        return read_config(parameters)
    except Mistakes as mistakes:
        raise Mistakes((*mistakes.lines, *_unknown_names(parameters))) from mistakes


def _unknown_names(parameters: dict[str, Any]) -> Iterator[str]:
    """Names that no door knows, in parameters that may be wrong in any other way."""
    for section, door in (("task", TASKS), ("network", NETWORKS)):
        chosen = parameters.get(section)
        if isinstance(chosen, dict) and isinstance(chosen.get("name"), str):
            yield from _said(f"{section}.name", partial(door.resolve, chosen["name"]))
    for section, several in (("methods", STEPS), ("targets", TARGETS)):
        listed = parameters.get(section)
        for name in listed if isinstance(listed, list) else []:
            yield from _said(section, partial(several.resolve, str(name)))


def check_names(config: Config) -> None:
    """Names, options and files that the configuration mentions. Quick. Raises Mistakes with all that is wrong."""
    lines = [
        *_said("task.name", lambda: TASKS.resolve(config.task.name)),
        *_said("network.name", lambda: NETWORKS.resolve(config.network.name)),
        *(line for name in config.methods for line in _said("methods", partial(STEPS.resolve, name))),
        *(line for name in config.targets for line in _said("targets", partial(TARGETS.resolve, name))),
        *config.search.mistakes(where="search"),
        *_weights_missing(config),
    ]
    if not any(line.startswith("task.name") for line in lines):
        lines += option_mistakes(TASKS.resolve(config.task.name), config.task.options, where="task.options")
    if not any(line.startswith("network.name") for line in lines):
        lines += option_mistakes(NETWORKS.resolve(config.network.name), config.network.options, where="network.options")
    if lines:
        raise Mistakes(lines)


def check_feasible(config: Config, stages: set[str]) -> None:
    """Data, weights, budget, compilers, room on disk: what `stages` will need. Raises Mistakes."""
    lines = _no_room(machine.output_root())
    if "compile" in stages:
        for name in config.targets:
            lines += _said(f"targets: {name}", TARGETS.resolve(name).check)
    if stages & {"data", "teacher", "profile", "search"}:
        lines += _said("", lambda: _check_network(config))
    if lines:
        raise Mistakes(lines)


def _check_network(config: Config) -> None:
    """Build the network, load given weights, trace it and hold the budget against what is reachable."""
    from pocketpipe.compression.tracing import profile_of
    from pocketpipe.networks.weights import read_weights
    from pocketpipe.search.feasibility import refuse_impossible

    task = config.task.build(machine.data_root())
    if config.task.holdout is not None and config.task.holdout not in task.holdouts:
        allowed = ", ".join(("null", *task.holdouts))
        raise UserError(
            f"task.holdout: {config.task.holdout!r} is not known to task {config.task.name!r}; use {allowed}"
        )
    network = config.network.fresh()
    weights = config.network.weights_path(machine.data_root())
    if weights is not None:
        network = replace(network, state=read_weights(weights))
    module = network.build(task)
    refuse_impossible(
        profile_of(module, task.input_shape), [STEPS.resolve(name) for name in config.methods], config.budget
    )


def _weights_missing(config: Config) -> list[str]:
    weights = config.network.weights_path(machine.data_root())
    if weights is None or weights.is_file():
        return []
    return [
        f"network.weights: no file {str(config.network.weights)!r} under the data root {machine.data_root()} "
        "(set POCKETPIPE_DATA, or give an absolute path)"
    ]


def _no_room(folder: Path) -> list[str]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free // 2**20
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        return [
            f"output folder {folder}: cannot be written ({error.strerror}); set POCKETPIPE_OUTPUT to another folder"
        ]
    if free < FREE_MEGABYTES:
        return [f"output folder {folder}: {free} MB free, {FREE_MEGABYTES} MB needed; set POCKETPIPE_OUTPUT to another"]
    return []


def _said(where: str, check: Callable[[], object]) -> Iterator[str]:
    """The lines of a UserError that `check` raises, with `where` in front."""
    try:
        check()
    except UserError as error:
        for line in str(error).splitlines():
            yield f"{where}: {line}" if where else line
