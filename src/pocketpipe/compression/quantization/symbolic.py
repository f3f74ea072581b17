"""A network's forward as a graph of its modules and function calls: torch.fx, with two examples running along.

The examples differ in their number only. A size that both have alike is a plain number to the forward (so that a
recurrent network can loop over its steps); one in which they differ belongs to the batch and stays symbolic.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate, map_arg
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from pocketpipe.compression.modules import device_of, evaluating, has_torchs_forward, is_torchs_own
from pocketpipe.errors import UserError, first_line

BATCHES = (2, 3)
EXAMPLE = "example"
"""Key in a node's `meta`: what it made of the first example."""
OWNER = "owner"
"""Key in a node's `meta`: path of the module whose code calls it."""
UNCHANGED = "unchanged"
"""Key in the `meta` of a call of the user's module that returns what it gets, in eval mode: stochastic depth, noise."""

_PLAIN = (int, float, bool, str, type(None), torch.dtype)
_FACTORIES = ("zeros", "ones", "full", "empty", "arange")
"""Functions of torch that make tensors of given sizes; fx does not see them, as no tensor goes in."""
_DROPOUTS: dict[Any, type[nn.Module]] = {
    functional.dropout: nn.Dropout,
    functional.dropout1d: nn.Dropout1d,
    functional.dropout2d: nn.Dropout2d,
    functional.dropout3d: nn.Dropout3d,
    functional.alpha_dropout: nn.AlphaDropout,
}


@dataclass(frozen=True)
class Traced:
    """A graph, and where in it the modules that were looked into end."""

    graph: fx.Graph
    ends: tuple[tuple[str, fx.Node], ...]
    """(module's path, the node that is its result), inner modules first; without results that are no tensor."""


def traced(network: nn.Module, input_shape: tuple[int, ...]) -> Traced:
    """The graph of `network` in eval mode; torch's own modules are leaves, all others are looked into.

    Dropout that is a function becomes a module of `network`, so that it follows train and eval, and so does a module
    without parameters that returns what it gets in eval mode. Raises UserError for a forward that depends on values, on
    the size of the batch, or changes tensors behind the graph's back.
    """
    tracer = _ExampleTracer(_examples(network, input_shape))
    graph = _evaluated(network, tracer)
    _drop_unused(graph, network)
    replaced = _dropouts_as_modules(graph, network)
    ends = ((path, replaced.get(node, node)) for path, node in tracer.ends)
    return Traced(graph, tuple((path, node) for path, node in ends if isinstance(node.meta.get(EXAMPLE), Tensor)))


def _evaluated(network: nn.Module, tracer: _ExampleTracer) -> fx.Graph:
    """Its graph in eval mode. Raises UserError for a forward that has none."""
    try:
        with evaluating(network):
            return tracer.graph_of(network)
    except UserError:
        raise
    except Exception as error:  # fx lets through whatever the network's own code raises
        reason = first_line(error)
        raise UserError(
            f"network cannot be traced for quantization ({reason}); its forward must take one tensor and not depend "
            "on its values or on the size of the batch"
        ) from error


def lost_in_training(network: nn.Module, input_shape: tuple[int, ...]) -> str | None:
    """The module whose code does something in training alone that `traced` does not see; None if there is none.

    Raises UserError as `traced` does.
    """
    examples = _examples(network, input_shape)
    first, second = copy.deepcopy(network), copy.deepcopy(network)  # fx leaves constants of the forward in each
    evaluated = _ExampleTracer(examples)
    calls = _calls(_evaluated(first, evaluated), first)
    trained = _ExampleTracer(examples, unchanged=evaluated.unchanged)
    second.train()
    try:
        calls_trained = _calls(trained.graph_of(second), second)
    except Exception:  # what it does depends on a number that it draws, or on something else that eval mode has not
        return trained.path or type(network).__name__
    for one, other in zip_longest(calls, calls_trained):
        if one is None or other is None or one[0] != other[0]:
            return (other or one)[1] or type(network).__name__
    return None


def _examples(network: nn.Module, input_shape: tuple[int, ...]) -> list[Tensor]:
    device = device_of(network)
    return [torch.zeros(count, *input_shape, device=device) for count in BATCHES]


def _calls(graph: fx.Graph, network: nn.Module) -> list[tuple[str, str]]:
    """(what is called with what, path of the module whose code calls it) in order; of dropout whatever its mode."""
    _drop_unused(graph, network)
    number = {node: place for place, node in enumerate(graph.nodes)}
    calls = []
    for node in graph.nodes:
        given = _dropout_arguments(node)["input"] if node.target in _DROPOUTS else (node.args, node.kwargs)
        named = map_arg(given, lambda argument: f"#{number[argument]}")  # names count nodes that are gone
        calls.append((f"{node.op} {node.target} {named}", node.meta.get(OWNER, "")))
    return calls


class _Known(fx.Proxy):
    """A proxy that knows what it is for both examples."""

    known: tuple[Any, Any]

    def __getattr__(self, name: str) -> Any:
        if name == "known":  # not yet
            raise AttributeError(name)
        if callable(getattr(self.known[0], name)):
            return fx.proxy.Attribute(self, name)
        return self.tracer.create_proxy("call_function", getattr, (self, name), {})

    def __len__(self) -> int:
        first, second = map(len, self.known)
        if first != second:
            raise TypeError("the length of the batch is not fixed; write x.shape[0] instead of len(x)")
        return first

    def __iter__(self) -> Iterator[Any]:
        return (operator.getitem(self, position) for position in range(len(self)))


class _ExampleTracer(fx.Tracer):
    """Traces while both examples are computed with."""

    proxy_buffer_attributes = True
    """A kernel may lie in a buffer."""

    def __init__(self, examples: list[Tensor], unchanged: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self._examples = examples
        self.unchanged = unchanged
        """Paths of the user's modules that return what they get in eval mode."""
        self.path = ""
        """Of the module whose code runs."""
        self._computing = False
        self.ends: list[tuple[str, fx.Node]] = []

    def graph_of(self, network: nn.Module) -> fx.Graph:
        """The graph of the network in the mode that it is in."""
        with torch.no_grad(), self.factories():
            return self.trace(network)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Known(node, self)

    def create_proxy(
        self,
        kind: str,
        target: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        name: str | None = None,
        type_expr: Any = None,
        proxy_factory_fn: Callable[[fx.Node], fx.Proxy] | None = None,
    ) -> Any:
        """The proxy of a new node, or the plain value that the node is for any number of examples."""
        made = super().create_proxy(kind, target, args, kwargs, name, type_expr, proxy_factory_fn)
        made.node.meta[OWNER] = self.path
        if kind == "placeholder" and args:
            return args[0]  # an argument with a default keeps it
        values = self._values(kind, target, args, kwargs)
        if _is_plain(values) and not (isinstance(values[0], bool) and _has_batch(args)):
            return values[0]
        assert isinstance(made, _Known)
        made.known = values
        made.node.meta[EXAMPLE] = values[0]
        return made

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if self._computing:
            return forward(*args, **kwargs)
        path, outer = self.path_of_module(m), self.path
        alone = len(args) == 1 and not kwargs
        if not alone:
            self.unchanged -= {path}  # it may join what it gets
        self.path, before = path, _state(args[0]) if args else None
        result = super().call_module(m, forward, args, kwargs)
        self.path = outer
        leaf = self.is_leaf_module(m, path)
        untouched = alone and before is not None and _state(result) == before
        if not leaf and untouched and not [*m.children(), *m.parameters()]:
            self.unchanged |= {path}
            result = super().call_module(m, forward, args, kwargs)
        if path in self.unchanged:
            result.node.meta[UNCHANGED] = True
        elif isinstance(result, fx.Proxy) and not leaf:
            self.ends.append((path, result.node))
        return result

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Torch's own, and a layer of the user's that computes as torch's; with or without something on its weights."""
        if isinstance(m, _ConvNd | nn.Linear | _BatchNorm):
            return has_torchs_forward(m)
        return module_qualified_name in self.unchanged or (is_torchs_own(m) and not isinstance(m, nn.Sequential))

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return attr_val if self._computing else super().getattr(attr, attr_val, parameter_proxy_cache)

    @contextmanager
    def factories(self) -> Iterator[None]:
        """Let torch's factories take sizes that are symbolic."""
        originals = {name: getattr(torch, name) for name in _FACTORIES}
        try:
            for name, original in originals.items():
                setattr(torch, name, self._factory(original))
            yield
        finally:
            for name, original in originals.items():
                setattr(torch, name, original)

    def _factory(self, original: Callable[..., Tensor]) -> Callable[..., Any]:
        @wraps(original)
        def make(*args: Any, **kwargs: Any) -> Any:
            if _has_batch((args, kwargs)):
                return self.create_proxy("call_function", original, args, kwargs)
            return original(*args, **kwargs)

        return make

    def _values(self, kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        self._computing = True
        try:
            first, second = (self._value(which, kind, target, args, kwargs) for which in range(2))
        finally:
            self._computing = False
        return first, second

    def _value(self, which: int, kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        def known(argument: Any) -> Any:
            return argument.known[which] if isinstance(argument, _Known) else argument

        args, kwargs = map_aggregate(args, known), map_aggregate(kwargs, known)  # type: ignore[arg-type, assignment]
        match kind:
            case "placeholder":
                return self._examples[which]
            case "get_attr":
                path, _, name = target.rpartition(".")
                return getattr(self.root.get_submodule(path), name)
            case "call_module":
                return self.root.get_submodule(target)(*args, **kwargs)
            case "call_method":
                return getattr(args[0], target)(*args[1:], **kwargs)
            case _:
                return target(*args, **kwargs)


def _state(value: Any) -> tuple[int, int] | None:
    """Which tensor it is for the first example, and how often that was written to; None for anything else."""
    tensor = value.known[0] if isinstance(value, _Known) else None
    return (id(tensor), tensor._version) if isinstance(tensor, Tensor) else None


def _is_plain(values: tuple[Any, Any]) -> bool:
    """Whether both examples give the same value, one that can stand in code."""
    first, second = values
    parts = first if isinstance(first, tuple) else (first,)
    return type(first) is type(second) and all(isinstance(part, _PLAIN) for part in parts) and bool(first == second)


def _has_batch(arguments: Any) -> bool:
    """Whether anything in the arguments is symbolic and no tensor: it depends on the size of the batch."""
    found: list[_Known] = []

    def look(argument: Any) -> Any:
        if isinstance(argument, _Known) and not isinstance(argument.known[0], Tensor):
            found.append(argument)
        return argument

    map_aggregate(arguments, look)
    return bool(found)


def _drop_unused(graph: fx.Graph, network: nn.Module) -> None:
    """Remove sizes that became plain numbers. Raises UserError for a tensor that is changed in place, then not used."""
    for node in reversed(graph.nodes):
        if node.op in ("placeholder", "output") or node.users:
            continue
        if _works_in_place(node, network):
            raise UserError(
                f"network cannot be traced for quantization: {node.target!r} changes a tensor in place and its result "
                "is not used; assign it (x = x.relu_())"
            )
        graph.erase_node(node)


def _works_in_place(node: fx.Node, network: nn.Module) -> bool:
    match node.op:
        case "call_method":
            return str(node.target).endswith("_") and not str(node.target).endswith("__")
        case "call_module":
            return bool(getattr(network.get_submodule(str(node.target)), "inplace", False))
        case _:
            return bool(node.kwargs.get("inplace", False))


def _dropouts_as_modules(graph: fx.Graph, network: nn.Module) -> dict[fx.Node, fx.Node]:
    """Each node that was replaced, and by which."""
    replaced: dict[fx.Node, fx.Node] = {}
    for node in list(graph.nodes):
        kind = _DROPOUTS.get(node.target) if node.op == "call_function" else None
        given = _dropout_arguments(node) if kind else {}
        if kind is None or given["training"]:  # always on: not a matter of train and eval
            continue
        name = f"functional_dropout_{len(replaced) + 1}"
        network.add_module(name, kind(given["p"]))
        with graph.inserting_before(node):
            module = graph.call_module(name, (given["input"],))
        module.meta = dict(node.meta)
        node.replace_all_uses_with(module)
        graph.erase_node(node)
        replaced[node] = module
    return replaced


def _dropout_arguments(node: fx.Node) -> dict[str, Any]:
    """The functions have the same signature."""
    names = ("input", "p", "training", "inplace")
    return {"p": 0.5, "training": True} | dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
