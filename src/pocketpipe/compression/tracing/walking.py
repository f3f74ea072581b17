"""The state of a walk through a network's graph, and what the rules for operators need to read a node."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, fx

from pocketpipe.compression.tracing.activations import Activation
from pocketpipe.compression.tracing.labels import FIXED, Labels

Option = TypeVar("Option")

Length = tuple[int, Tensor | None]
"""Of an axis, with its labels if these follow weights."""


@dataclass(frozen=True)
class LayerCall:
    """One use of a weight: a convolution, a product with a matrix, a gate of a recurrent cell."""

    operator: str
    weight: str
    """Name of the parameter."""
    weight_shape: tuple[int, ...]
    bias: str | None
    out_axis: int
    """Axis of the weight that makes output channels."""
    positions: int
    output_shape: tuple[int, ...]
    """Without the batch."""
    node: fx.Node
    over: tuple[Length, ...] = ()
    """Axes with labels, besides those of the weight, along which it is applied: no part of `positions`."""


@dataclass(frozen=True)
class ProductCall:
    """A product of two activations: it costs MACs, and has no weight."""

    name: str
    lengths: tuple[Length, ...]
    """Their product is its MACs."""
    output_shape: tuple[int, ...]
    """Without the batch."""
    node: fx.Node


@dataclass(frozen=True)
class Choice:
    """How often a node's first ways to take channels apart were tried in vain, and what went wrong at first."""

    tried: int = 0
    problem: str = ""
    failed: bool = False
    """Whether channels could go, by the graph, and it did not run; else they had to stay whatever was chosen here."""
    closed: bool = False
    """Nothing else is to be tried."""


@dataclass(frozen=True)
class Decision:
    """A node at which the graph leaves open how channels may go: the code behind it knows, and running it shows."""

    node: str
    options: int
    tried: int
    labels: Tensor
    parts: bool
    """Whether it takes parts of an axis; else it says which of several axes gets shorter."""
    closed: bool

    @property
    def open(self) -> bool:
        """Whether it takes a way now, and may take another. One that has none keeps its channels."""
        return self.tried < self.options and not self.closed

    @property
    def has_another(self) -> bool:
        """Whether there is a way beside the one that it takes now."""
        return self.tried + 1 < self.options


@dataclass(frozen=True)
class Size:
    """A number in a module that is the length of an axis: as many as there are labels left on it."""

    path: str
    attribute: str
    labels: Tensor


@dataclass
class Walk:
    """State of one walk; the rules in `rules` read and extend it."""

    adaptive: frozenset[str]
    """Paths of modules that adapt themselves: those with a method `keep_channels(kept_in, kept_out)`."""
    choices: Mapping[str, Choice] = field(default_factory=dict)
    """By the node's name; a node that is not named takes its first way."""
    labels: Labels = field(default_factory=Labels)
    needed: set[fx.Node] = field(default_factory=set)
    """Nodes on which the output depends."""
    values: dict[fx.Node, Any] = field(default_factory=dict)
    """Activation, a list of them, or None for what is no tensor."""
    calls: list[LayerCall] = field(default_factory=list)
    products: list[ProductCall] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    sizes: list[Size] = field(default_factory=list)
    """Attributes of torch's own modules that no weight's shape tells."""
    folded_into: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """For each weight whose BatchNorm the ONNX export folds into it: that BatchNorm's parameters and buffers."""

    def value(self, argument: Any) -> Activation | None:
        """What is known of an operator's argument; None if it is no tensor of the graph."""
        found = self.values.get(argument) if isinstance(argument, fx.Node) else None
        return found if isinstance(found, Activation) else None

    def axis(self, parameter: str, shape: tuple[int, ...], dim: int) -> Tensor | None:
        """Labels of a parameter's axis; None for an axis of one position: the last channel is never removed."""
        return self.labels.of((parameter, dim), shape[dim]) if shape[dim] > 1 else None

    def along(self, value: Activation, dim: int) -> Tensor | None:
        """Labels of `value` along `dim`: its own, or those of the parameter that it is."""
        if value.parameter is not None:
            return self.axis(value.parameter, value.shape, dim)
        return value.labels if value.dim == dim else None

    def meet(self, labels: Tensor | None, value: Activation, dim: int) -> None:
        """`labels` go with the positions of `value` along `dim`; if these are fixed, the labels must stay."""
        if labels is None or value.follows:
            return
        own = self.along(value, dim)
        if own is None:
            self.labels.freeze(labels, value.reason)
        else:
            self.labels.tie(labels, own, value.reason)

    def keep(self, values: Iterable[Activation | None], reason: str | None) -> None:
        """All channels of `values` must stay; of a parameter, every axis."""
        for value in values:
            if value is not None and value.labels is not None:
                self.labels.freeze(value.labels, reason)
            elif value is not None and value.parameter is not None:
                self.keep_axes(value, range(len(value.shape)), reason)

    def keep_axes(self, value: Activation, dims: Iterable[int], reason: str | None) -> None:
        """Some axes of a parameter must stay as long as they are."""
        for dim in dims:
            labels = self.axis(value.parameter or "", value.shape, dim)
            if labels is not None:
                self.labels.freeze(labels, reason)

    def adapts(self, node: fx.Node) -> bool:
        """Whether `node` lies in a module that adapts itself to the channels that are kept."""
        return any(path in self.adaptive for path in module_paths(node))

    def choose(self, node: fx.Node, labels: Tensor, options: Sequence[Option], *, parts: bool = False) -> Option | None:
        """The first of the ways for `labels` to go through `node` that was not tried in vain; None if there is none."""
        choice = self.choices.get(node.name, Choice())
        self.decisions.append(Decision(node.name, len(options), choice.tried, labels, parts, choice.closed))
        return options[choice.tried] if choice.tried < len(options) else None

    def in_vain(self, node: fx.Node) -> str:
        """Why no way through `node` is left, for a person."""
        problem = self.choices.get(node.name, Choice()).problem
        if problem.startswith("node "):
            return problem  # it names a node itself
        why = f"{describe(node)}: takes channels apart by numbers that are fixed in the code"
        return f"{why} ({problem})" if problem else why


def module_paths(node: fx.Node) -> list[str]:
    """Paths of the modules in whose forward `node` was made, from the outside in."""
    return [path.partition("@")[0] for path, _ in node.meta.get("nn_module_stack", {}).values()]


def describe(node: fx.Node) -> str:
    """Node, operator and module, for a person."""
    path = (module_paths(node) or [""])[-1]
    where = f"module {path!r}" if path else "the network's own forward"
    return f"node {node.name!r} ({operator_name(node)}) in {where}"


def operator_name(node: fx.Node) -> str:
    """Name of the operator without its overload: `aten.conv2d`, `getitem`."""
    schema = getattr(node.target, "_schema", None)
    return str(schema.name).replace("::", ".") if schema else getattr(node.target, "__name__", str(node.target))


def arguments(node: fx.Node) -> dict[str, Any]:
    """The operator's arguments by name, defaults included."""
    declared = node.target._schema.arguments  # type: ignore[union-attr]
    given = {argument.name: value for argument, value in zip(declared, node.args, strict=False)}
    defaults = {argument.name: argument.default_value for argument in declared if argument.has_default_value()}
    return {**defaults, **given, **node.kwargs}


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Shape of the tensor that `node` makes."""
    return tuple(int(length) for length in node.meta["val"].shape)


def inputs_of(walk: Walk, node: fx.Node) -> list[Activation]:
    """All tensors that go into `node`, those in lists too."""
    return [value for argument in node.all_input_nodes if (value := walk.value(argument)) is not None]


def unlabelled(node: fx.Node, origin: str | None = None) -> Any:
    """The output of `node` with nothing known of it but its shape; a list for an operator with several outputs."""
    origin = origin or describe(node)
    made = node.meta.get("val")
    if isinstance(made, Tensor):
        return Activation(tuple(made.shape), origin=origin)
    if isinstance(made, (list, tuple)):
        return [Activation(tuple(m.shape), origin=origin) if isinstance(m, Tensor) else None for m in made]
    return None


def fixed(count: int) -> Tensor:
    """Labels of `count` fixed positions."""
    return torch.full((count,), FIXED)
