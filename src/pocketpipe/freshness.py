"""Fingerprints of a pipeline's nodes: what each output would be made from.

A stage's fingerprint = its parameter sections + fingerprints of its inputs + source of the modules that it uses
(the user's too) + versions of its engines. Computed over the whole registered pipeline, so that a part of it
(`--namespaces finetune`) finds the inputs that earlier runs made.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from pocketpipe import machine
from pocketpipe.budget import Budget
from pocketpipe.config import Config
from pocketpipe.datasets.fresh import FreshDataset
from pocketpipe.datasets.sources import SourceDataset, Workspace
from pocketpipe.lineage.code import Code, code_of
from pocketpipe.lineage.fingerprint import engine_versions, fingerprint
from pocketpipe.network import NETWORKS
from pocketpipe.plan import STEPS
from pocketpipe.search.tuners.base import TUNERS
from pocketpipe.targets.base import TARGETS
from pocketpipe.task import TASKS

ENGINES = {
    "PIL": "pillow",
    "jinja2": "jinja2",
    "lightning_fabric": "pytorch-lightning",
    "matplotlib": "matplotlib",
    "nni": "nni",
    "numpy": "numpy",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "onnxscript": "onnxscript",
    "pytorch_lightning": "pytorch-lightning",
    "sklearn": "scikit-learn",
    "torch": "torch",
    "tvm": "apache-tvm",
}
"""Packages whose version may change a result, and their distributions. Whose modules import one depends on it."""

UNSEEN_ENGINES = {"profile": ("onnxscript",), "export": ("onnxscript",), "compile": ("ziglang",)}
"""By stage: distributions that it uses without an import, through torch's exporter or as a command."""


@dataclass(frozen=True)
class Ingredients:
    """Everything that a node's outputs depend on; its fingerprint is their short name."""

    stage: str
    fingerprint: str
    inputs: dict[str, str]
    """Fingerprint of the node that makes each input, or digest of what comes from outside."""
    parameters: dict[str, Any]
    modules: tuple[str, ...]
    """All modules that the code digest covers."""
    code: str
    engines: tuple[str, ...]


def ingredients(pipeline: Pipeline, catalog: DataCatalog, config: Config) -> dict[str, Ingredients]:
    """Of each node by its name, in the order in which nodes run."""
    parameters = config.model_dump(mode="json")
    made_by: dict[str, str] = {}  # dataset -> fingerprint of the node that makes it
    found: dict[str, Ingredients] = {}
    outside: dict[str, str] = {}  # dataset that no node makes -> its digest, which may mean reading all data
    for node in pipeline.nodes:
        stage = str(node.namespace)
        modules = _modules(node, config)
        own = {name: _that_decides(node, name, parameters[name]) for name in _parameter_inputs(node)}
        for name in _data_inputs(node):
            if name not in made_by and name not in outside:
                outside[name] = _source_digest(catalog[name], config)
        inputs = {name: made_by.get(name) or outside[name] for name in _data_inputs(node)}
        inputs |= _teacher_digests(node, config) | _hosts(node, config)
        code = code_of(modules)
        engines = _engines(stage, code)
        name = fingerprint(
            node=node.name, parameters=own, inputs=inputs, code=code.digest, engines=engine_versions(engines)
        )
        found[node.name] = Ingredients(stage, name, inputs, own, code.modules, code.digest, engines)
        made_by.update(dict.fromkeys(node.outputs, name))
    return found


def request_fingerprint(found: Mapping[str, Ingredients], config: Config) -> str:
    """Everything that a user can change: all parameters, the data, weights, and code (theirs too)."""
    inputs = {name: digest for each in found.values() for name, digest in each.inputs.items()}
    sources = {name: inputs[name] for name in ("data_root", "given_weights") if name in inputs}
    named = config.further_teachers(Config.model_fields)
    teachers = {str(teacher.weights): teacher.digest(machine.data_root()) for teacher in named}
    modules = [*chain.from_iterable(_named(config).values())]
    modules += chain.from_iterable(NETWORKS.modules_of(teacher.name) for teacher in named)
    parameters = config.model_dump(mode="json")
    return fingerprint(parameters=parameters, teachers=teachers, code=code_of(modules).digest, **sources)


def hand_over(pipeline: Pipeline, catalog: DataCatalog, found: dict[str, Ingredients]) -> None:
    """Tell each dataset the fingerprint that its content must have, each workspace that of its stage."""
    for node in pipeline.nodes:
        for name in (*node.outputs, *_data_inputs(node)):
            dataset = catalog[name]
            if isinstance(dataset, Workspace) or (isinstance(dataset, FreshDataset) and name in node.outputs):
                dataset.fingerprint = found[node.name].fingerprint


PLANNING = ("profile", "search")
"""Stages that look at what a budget says of costs, and at nothing that is asked of what was made."""


def _that_decides(node: Node, name: str, value: Any) -> Any:
    """Of a section of parameters what the node's outputs depend on. A champion's plan is judged by its metric, too."""
    if name != "budget" or node.namespace not in PLANNING or "champion" in node.inputs:
        return value
    return {term: bound for term, bound in value.items() if term not in Budget.judged}


def _engines(stage: str, code: Code) -> tuple[str, ...]:
    """Distributions whose version is part of the fingerprint, sorted."""
    imported = {distribution for package, distribution in ENGINES.items() if package in code.packages}
    return tuple(sorted(imported.union(UNSEEN_ENGINES.get(stage, ()))))


def _source_digest(dataset: Any, config: Config) -> str:
    return dataset.look_up(config) if isinstance(dataset, SourceDataset) else ""


def _teacher_digests(node: Node, config: Config) -> dict[str, str]:
    """Digests of the weights files that a recipe among the node's parameters names."""
    named = config.further_teachers(_parameter_inputs(node))
    return {f"teacher {teacher.weights}": teacher.digest(machine.data_root()) for teacher in named}


def _hosts(node: Node, config: Config) -> dict[str, str]:
    """What of this machine decides what its targets make."""
    if "targets" not in _parameter_inputs(node):
        return {}
    hosts = {f"{name} on": TARGETS.resolve(name).host() for name in config.targets}
    return {name: host for name, host in hosts.items() if host}


def _parameter_inputs(node: Node) -> list[str]:
    return sorted(name.removeprefix("params:") for name in node.inputs if name.startswith("params:"))


def _data_inputs(node: Node) -> list[str]:
    return sorted(name for name in node.inputs if not name.startswith("params:"))


def _named(config: Config) -> dict[str, tuple[str, ...]]:
    """The modules that each section names through a door."""
    return {
        "task": TASKS.modules_of(config.task.name),
        "network": NETWORKS.modules_of(config.network.name),
        "methods": tuple(chain.from_iterable(STEPS.modules_of(method.name) for method in config.methods)),
        "targets": tuple(chain.from_iterable(TARGETS.modules_of(name) for name in config.targets)),
        "search": TUNERS.modules_of(config.search.tuner),
    }


def _modules(node: Node, config: Config) -> list[str]:
    """The node's own module, and those that its parameters name."""
    named = _named(config)
    modules = [node.func.__module__]
    for parameter in _parameter_inputs(node):
        modules += named.get(parameter, ())
    for teacher in config.further_teachers(_parameter_inputs(node)):
        modules += NETWORKS.modules_of(teacher.name)
    return modules
