"""Which weights of a network the nodes of its traced graph multiply by."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.parametrize import ParametrizationList

from pocketpipe.compression.quantization.operators import module_of, operator_of
from pocketpipe.compression.quantization.symbolic import EXAMPLE
from pocketpipe.compression.weights import layer_name, output_axis


@dataclass(frozen=True)
class WeightCall:
    """A call that multiplies by a weight of the network."""

    node: fx.Node
    layer: str
    axis: int | None
    """The weight's axis of output channels; None where a position along it does not stand for one channel."""


_WEIGHT_ARGUMENT = {"linear": (1, 0), "conv1d": (1, 0), "conv2d": (1, 0), "conv3d": (1, 0), "matmul": (1, 1),
                    "mm": (1, 1), "addmm": (2, 1)}  # fmt: skip
"""For each function: (position of the weight among its arguments, the weight's axis of output channels)."""
_MATRICES = ("matmul", "mm", "addmm")
"""Those whose weight is a layer's if it is one matrix."""


def layer_calls(node: fx.Node, network: nn.Module) -> Iterable[WeightCall]:
    """The weights that `node` multiplies by."""
    module = module_of(node, network)
    path = str(node.target)
    if isinstance(module, _ConvNd | nn.Linear):
        several = isinstance(module, _ConvTransposeNd) and module.groups > 1  # channels at each position
        yield WeightCall(node, path, None if several else output_axis(module))
    elif module is not None:
        yield from _inner_calls(node, path, module)
    elif operator_of(node) in _WEIGHT_ARGUMENT:
        position, axis = _WEIGHT_ARGUMENT[operator_of(node)]
        weight = node.args[position] if position < len(node.args) else node.kwargs.get("weight")
        parameter = _parameter(weight, network) if isinstance(weight, fx.Node) else None
        if parameter is not None and not (operator_of(node) in _MATRICES and _has_heads(weight)):
            yield WeightCall(node, parameter, axis)


def _has_heads(weight: object) -> bool:
    """Whether it is a matrix for each head: as in an einsum, that stays in float."""
    return isinstance(weight, fx.Node) and bool(weight.meta[EXAMPLE].ndim > 2)


def _inner_calls(node: fx.Node, path: str, module: nn.Module) -> Iterable[WeightCall]:
    """The weights inside a module of torch's own (attention, an encoder), which is not looked into."""
    for name, inner in module.named_modules(prefix=path):
        if isinstance(inner, nn.MultiheadAttention):
            projections = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
            yield from (
                WeightCall(node, f"{name}.{each}", 0) for each in projections if getattr(inner, each) is not None
            )
        elif isinstance(inner, nn.Linear):
            yield WeightCall(node, name, 0)


def _parameter(node: fx.Node, network: nn.Module) -> str | None:
    """Name of the layer whose weight `node` is: the parameter itself, or with parametrizations on it."""
    is_list = isinstance(module_of(node, network), ParametrizationList)
    if node.op == "get_attr" or is_list:
        example = node.meta.get(EXAMPLE)
        if isinstance(example, Tensor) and example.ndim >= 2:
            return layer_name(f"{node.target}.original" if is_list else str(node.target))
    return None
