"""Weights of a network's layers by the layer's name, plain or with masks, codebooks and quantizers on them.

What a step lays on a weight is a parametrization (`torch.nn.utils.parametrize`): the module computes with
`weight`, and what is trained is `parametrizations.weight.original`. They stack in the order of the plan.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd
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


def is_part_of_parametrization(stored: str) -> bool:
    """Whether `stored` (a name in `state_dict`) is a mask, scale or table that lies on a weight, not the weight itself.

    >>> names = ("conv1.parametrizations.weight.0.mask", "conv1.parametrizations.weight.original", "conv1.bias")
    >>> [is_part_of_parametrization(name) for name in names]
    [True, False, False]
    """
    return "parametrizations" in stored.split(".") and parameter_name(stored) == stored


def output_axis(layer: nn.Module) -> int:
    """The axis of the layer's weight that makes output channels."""
    return 1 if isinstance(layer, _ConvTransposeNd) else 0


def along(values: Tensor, axis: int | None, ndim: int) -> Tensor:
    """(channels,) shaped to broadcast along `axis` of a tensor with `ndim` axes; a single number where that is None.

    >>> along(torch.arange(3), 1, 4).shape, along(torch.ones(1), None, 2).shape
    (torch.Size([1, 3, 1, 1]), torch.Size([1, 1]))
    """
    return values.reshape([-1 if dim == axis else 1 for dim in range(ndim)])


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
    """The parameter that is trained for the layer's weight. Raises UserError where it is several (weight norm)."""
    module, attribute = owner(network, layer)
    if not parametrize.is_parametrized(module, attribute):
        plain: Tensor = getattr(module, attribute)
        return plain
    beneath = _lists(module)[attribute]
    if not beneath.is_tensor:
        raise UserError(
            f"layer {layer!r}: its weight is computed from several (weight_norm?); make it one before, by "
            f"torch.nn.utils.parametrize.remove_parametrizations(module, {attribute!r})"
        )
    original: Tensor = beneath.original
    return original


def said_of_several(network: nn.Module, kind: str) -> tuple[str, ...]:
    """The line of a step of `kind`, which leaves weights alone that are computed from several; none without such."""
    several = [
        f"{path}.{attribute}" if attribute != "weight" else path
        for path, module in network.named_modules()
        if parametrize.is_parametrized(module)
        for attribute, beneath in _lists(module).items()
        if not beneath.is_tensor
    ]
    if not several:
        return ()
    return (
        f"{kind}: {', '.join(several)} stay as they are: their weights are computed from several (weight_norm?); make "
        "them one before, by torch.nn.utils.parametrize.remove_parametrizations(module, 'weight')",
    )


@torch.no_grad()
def set_weight(network: nn.Module, layer: str, values: Tensor) -> None:
    """Set the parameter that is trained for the layer's weight; what lies on it applies to the new values."""
    original_of(network, layer).copy_(values)


def set_where_seen(network: nn.Module, layer: str, values: Tensor, hidden: Tensor) -> None:
    """As `set_weight`, but for what a mask hides: where it opens in training, the weight appears as it was."""
    set_weight(network, layer, torch.where(hidden, original_of(network, layer), values))


def lay_on(network: nn.Module, layer: str, parametrization: nn.Module) -> None:
    """Put one more parametrization on the layer's weight: it sees what those before it make.

    A weight that several modules share gets it in all of them, and stays shared.
    """
    for module, attribute in _holders(network, original_of(network, layer)):
        if parametrize.is_parametrized(module) and not parametrize.is_parametrized(module, attribute):
            _give_own_class(module)
        parametrize.register_parametrization(module, attribute, parametrization)
        if isinstance(module, nn.RNNBase):
            type(module).__deepcopy__ = _copied_without_computed_weights  # type: ignore[attr-defined]


def is_shared(network: nn.Module, layer: str) -> bool:
    """Whether another module, or another attribute, computes with the layer's weight, too."""
    return len(_holders(network, original_of(network, layer))) > 1


def _copied_without_computed_weights(module: nn.RNNBase, memo: dict[int, Any]) -> Any:
    """A deep copy of a recurrent module: torch keeps its last weights, and refuses to copy those that are computed."""
    if id(module) in memo:
        return memo[id(module)]
    replica = module.__new__(type(module))
    memo[id(module)] = replica
    made_anew = {"_flat_weights": [None] * len(module._flat_weights)}  # by the next forward
    replica.__dict__ = copy.deepcopy({**module.__dict__, **made_anew}, memo)
    return replica


def _holders(network: nn.Module, original: Tensor) -> list[tuple[nn.Module, str]]:
    """Every (module, attribute) that computes with this very parameter or buffer, plain or with something on it."""
    plain = [
        (module, name)
        for module in network.modules()
        if not isinstance(module, parametrize.ParametrizationList)
        for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
        if tensor is original
    ]
    return plain + [(module, name) for module, name in _parametrized(network) if _trained(module, name) is original]


def _parametrized(network: nn.Module) -> list[tuple[nn.Module, str]]:
    """Every (module, attribute) with something on it."""
    modules = [module for module in network.modules() if parametrize.is_parametrized(module)]
    return [(module, name) for module in modules for name in _lists(module)]


def _lists(module: nn.Module) -> dict[str, parametrize.ParametrizationList]:
    return dict(getattr(module, "parametrizations", {}))


def _trained(module: nn.Module, attribute: str) -> Tensor:
    """The parameter beneath; the first one where torch's own parametrizations (weight norm) keep several."""
    beneath = _lists(module)[attribute]
    tensor: Tensor = getattr(beneath, "original" if beneath.is_tensor else "original0")
    return tensor


def change_class(module: nn.Module, change: Callable[[type[nn.Module]], type[nn.Module]]) -> None:
    """Give the module the class that `change` makes of its own.

    torch keeps each parametrized attribute as a property of a class that it makes for the module: that stays on top.
    """
    own = type(module)
    if parametrize.is_parametrized(module):
        module.__class__ = _with_properties_of(own, (change(own.__bases__[0]),))
    else:
        module.__class__ = change(own)


def _give_own_class(module: nn.Module) -> None:
    """Copies of a module share the class that torch has made for it: a further property would appear in them too."""
    module.__class__ = _with_properties_of(type(module), type(module).__bases__)


def _with_properties_of(made_by_torch: type[nn.Module], bases: tuple[type, ...]) -> type[nn.Module]:
    members = {name: value for name, value in vars(made_by_torch).items() if name not in ("__dict__", "__weakref__")}
    return type(made_by_torch.__name__, bases, members)


def laid_on(network: nn.Module, layer: str) -> tuple[nn.Module, ...]:
    """The parametrizations on the layer's weight, first one first."""
    module, attribute = owner(network, layer)
    if not parametrize.is_parametrized(module, attribute):
        return ()
    return tuple(getattr(module.parametrizations, attribute))


def bare(network: nn.Module) -> nn.Module:
    """A copy with plain weights, as computed with, and without modules that only round (`rounds_only = True`).

    It is what costs and the export look at. A zero in its weights is +0, whatever its sign was: equal zeros pack well.
    """
    plain = copy.deepcopy(network)
    _make_plain(plain)
    for module in list(plain.modules()):
        for name, child in list(module.named_children()):
            if getattr(child, "rounds_only", False):
                setattr(module, name, nn.Identity())
    return plain


@torch.no_grad()
def _make_plain(network: nn.Module) -> None:
    """As `parametrize.remove_parametrizations` everywhere; that one breaks copies of `network` (they share classes)."""
    weights: dict[int, nn.Parameter] = {}
    places = []
    for module, name in _parametrized(network):
        beneath = _trained(module, name)
        computed = nn.Parameter(getattr(module, name) + 0.0, requires_grad=beneath.requires_grad)
        places.append((module, name, weights.setdefault(id(beneath), computed)))  # what is shared stays shared
    for module in {module for module, _, _ in places}:
        module.__class__ = type(module).__bases__[0]
        del module.parametrizations
    for module, name, weight in places:
        module.register_parameter(name, weight)
