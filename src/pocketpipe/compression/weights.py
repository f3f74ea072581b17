"""Weights of a network's layers by the layer's name, plain or with masks, codebooks and quantizers on them.

What a step lays on a weight is a parametrization (`torch.nn.utils.parametrize`): the module computes with
`weight`, and what is trained is `parametrizations.weight.original`. They stack in the order of the plan.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pocketpipe.errors import UserError

ORIGINAL = "original"


def parameter_name(stored: str) -> str:
    """Name of the parameter that `stored` (a name in `named_parameters`) is the original of.

    >>> parameter_name("conv1.parametrizations.weight.original"), parameter_name("conv1.bias")
    ('conv1.weight', 'conv1.bias')
    """
    path, marker, rest = stored.rpartition("parametrizations.")
    name, _, last = rest.partition(".")
    return f"{path}{name}" if marker and last.startswith(ORIGINAL) else stored


def layer_name(stored: str) -> str:
    """Name of the layer that a stored parameter is the weight of: its module's path, where it is called `weight`.

    >>> layer_name("conv1.parametrizations.weight.original"), layer_name("cell.weight_hh")
    ('conv1', 'cell.weight_hh')
    """
    return parameter_name(stored).removesuffix(".weight")


def owner(network: nn.Module, layer: str) -> tuple[nn.Module, str]:
    """(module, attribute) that hold the weight of the layer. Raises UserError if there is no such layer."""
    for path, attribute in ((layer, "weight"), layer.rpartition(".")[::2]):
        try:
            module = network.get_submodule(path)
        except AttributeError:
            continue
        if isinstance(getattr(module, attribute, None), Tensor):
            return module, attribute
    raise UserError(f"layer {layer!r}: the network has no such weight")


def weight_of(network: nn.Module, layer: str) -> Tensor:
    """What the layer computes with: its weight after all that lies on it. Not a copy where it is plain."""
    module, attribute = owner(network, layer)
    tensor: Tensor = getattr(module, attribute)
    return tensor


def original_of(network: nn.Module, layer: str) -> Tensor:
    """The parameter that is trained for the layer's weight."""
    module, attribute = owner(network, layer)
    if parametrize.is_parametrized(module, attribute):
        original: Tensor = getattr(module.parametrizations, attribute).original
        return original
    plain: Tensor = getattr(module, attribute)
    return plain


@torch.no_grad()
def set_weight(network: nn.Module, layer: str, values: Tensor) -> None:
    """Set the parameter that is trained for the layer's weight; what lies on it applies to the new values."""
    original_of(network, layer).copy_(values)


def lay_on(network: nn.Module, layer: str, parametrization: nn.Module) -> None:
    """Put one more parametrization on the layer's weight: it sees what those before it make."""
    module, attribute = owner(network, layer)
    parametrize.register_parametrization(module, attribute, parametrization)


def laid_on(network: nn.Module, layer: str) -> tuple[nn.Module, ...]:
    """The parametrizations on the layer's weight, first one first."""
    module, attribute = owner(network, layer)
    if not parametrize.is_parametrized(module, attribute):
        return ()
    return tuple(getattr(module.parametrizations, attribute))


def bare(network: nn.Module) -> nn.Module:
    """A copy with plain weights, as computed with, and without modules that only round (`rounds_only = True`).

    It is what tracing, costs and the float export look at.
    """
    plain = copy.deepcopy(network)
    for module in list(plain.modules()):
        for attribute in list(getattr(module, "parametrizations", {})):
            parametrize.remove_parametrizations(module, attribute, leave_parametrized=True)
        for name, child in list(module.named_children()):
            if getattr(child, "rounds_only", False):
                setattr(module, name, nn.Identity())
    return plain
