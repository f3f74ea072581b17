"""Carries out the removal of channels: slices every weight, and tells every module its new sizes."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from pocketpipe.compression.modules import evaluating
from pocketpipe.compression.thin_attention import ThinMultiheadAttention
from pocketpipe.errors import UserError, first_line

if TYPE_CHECKING:
    from pocketpipe.compression.tracing import Adapter, Trace
    from pocketpipe.compression.tracing.labels import Place

Kept = Mapping[str, Sequence[int]]
"""Channels to keep by the group's name, ascending; a group that is not named keeps all."""


def slim(network: nn.Module, trace: Trace, kept: Kept) -> nn.Module:
    """A copy of `network` without the channels that are not in `kept`. The copy has not been run yet."""
    slimmed = copy.deepcopy(network)
    removed = _removed(trace, kept)
    gone = torch.cat(
        [g.roots[_dropped(g.channels, kept[g.name])] for g in trace.groups if g.name in kept] or [torch.empty(0)]
    )
    sliced: dict[int, Tensor] = {}
    for path, module in slimmed.named_modules():
        for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            full_name = f"{path}.{name}" if path else name
            setattr(module, name, sliced.setdefault(id(tensor), _sliced(tensor, full_name, removed)))
    for size in trace.sizes:
        module = slimmed.get_submodule(size.path)
        if isinstance(getattr(module, size.attribute, None), int):
            setattr(module, size.attribute, int((~torch.isin(size.labels, gone)).sum()))
    for module in slimmed.modules():  # once all are cut: a weight with masks on it is computed from several tensors
        _update_sizes(module)
    for adapter in trace.adapters:
        _adapt(slimmed, adapter, gone)
    return slimmed


def masked(network: nn.Module, trace: Trace, kept: Kept) -> nn.Module:
    """A copy of `network` with zeros in all weights, biases and statistics of the channels that are not in `kept`.

    It computes what `slim` does (up to rounding) at the full size: what slimming is tested against.
    """
    copied = copy.deepcopy(network)
    tensors = dict((*copied.named_parameters(), *copied.named_buffers()))
    with torch.no_grad():
        for (name, dim), indices in _removed(trace, kept).items():
            tensors[name].index_fill_(dim, indices.to(tensors[name].device), 0)
    return copied


def _removed(trace: Trace, kept: Kept) -> dict[Place, Tensor]:
    """Indices to remove along each weight axis."""
    removed: dict[Place, list[Tensor]] = {}
    for group in trace.groups:
        if group.name in kept:
            dropped = _dropped(group.channels, kept[group.name])
            for place, indices in group.places.items():
                removed.setdefault(place, []).append(indices[dropped].flatten())
    return {place: torch.cat(parts) for place, parts in removed.items()}


def _dropped(channels: int, kept: Sequence[int]) -> Tensor:
    dropped = torch.ones(channels, dtype=torch.bool)
    dropped[list(kept)] = False
    return dropped.nonzero().flatten()


def _sliced(tensor: Tensor, name: str, removed: Mapping[Place, Tensor]) -> Tensor:
    """The tensor without the removed indices; the same object if nothing is removed from it."""
    short = tensor.detach()
    for dim in range(tensor.dim()):
        if (name, dim) in removed:
            stays = torch.ones(tensor.shape[dim], dtype=torch.bool)
            stays[removed[name, dim]] = False
            short = short.index_select(dim, stays.nonzero().flatten().to(tensor.device))
    if short.shape == tensor.shape:
        return tensor
    short = short.contiguous()
    return nn.Parameter(short, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else short


def _update_sizes(module: nn.Module) -> None:
    """Attributes that repeat the shape of a module's weights, or follow from it and a number of groups or heads."""
    match module:
        case _ConvTransposeNd():
            module.in_channels, module.out_channels = module.weight.shape[0], module.weight.shape[1] * module.groups
        case _ConvNd():
            module.in_channels, module.out_channels = module.weight.shape[1] * module.groups, module.weight.shape[0]
        case nn.Linear():
            module.out_features, module.in_features = module.weight.shape
        case _NormBase():
            vector = module.weight if module.weight is not None else module.running_mean
            module.num_features = module.num_features if vector is None else len(vector)
        case nn.GroupNorm() if module.weight is not None:
            module.num_channels = len(module.weight)
        case nn.PReLU():
            module.num_parameters = module.weight.numel()
        case nn.Unflatten() if -1 not in module.unflattened_size:
            module.unflattened_size = (-1, *module.unflattened_size[1:])
        case nn.Embedding():
            module.num_embeddings, module.embedding_dim = module.weight.shape
        case nn.RNNBase():
            reads, state = (_columns(module, f"weight_{part}_l0") for part in ("ih", "hh"))
            projected = module.proj_size > 0
            module.input_size, module.proj_size = reads, state if projected else 0
            module.hidden_size = _columns(module, "weight_hr_l0") if projected else state
        case nn.RNNCellBase():
            module.input_size, module.hidden_size = module.weight_ih.shape[1], module.weight_hh.shape[1]
        case nn.MultiheadAttention() if _is_thin(module):
            ThinMultiheadAttention.of(module)


def _columns(module: nn.Module, weight: str) -> int:
    tensor: Tensor = getattr(module, weight)
    return tensor.shape[1]


def _is_thin(attention: nn.MultiheadAttention) -> bool:
    """Whether channels went that torch's own forward insists on."""
    packed = attention.in_proj_weight
    plain = packed is not None and attention.bias_k is None and not attention.add_zero_attn
    return plain and packed.shape[0] < 3 * attention.embed_dim


def _adapt(network: nn.Module, adapter: Adapter, gone: Tensor) -> None:
    kept_in, kept_out = (
        (~torch.isin(labels, gone)).nonzero().flatten() for labels in (adapter.inputs, adapter.outputs)
    )
    if len(kept_in) < len(adapter.inputs) or len(kept_out) < len(adapter.outputs):
        network.get_submodule(adapter.path).keep_channels(kept_in, kept_out)  # type: ignore[operator]


def refuse_broken(network: nn.Module, input_shape: tuple[int, ...]) -> None:
    """Run `network` once on zeros. Raises UserError with the first line of what its forward says."""
    parameter = next(network.parameters(), torch.empty(0))
    try:
        with evaluating(network), torch.no_grad():
            network(torch.zeros(1, *input_shape, device=parameter.device, dtype=parameter.dtype))
    except Exception as error:  # the forward is the user's code: any error of it means that the shapes do not fit
        raise UserError(f"channels: the network does not run without them ({first_line(error)})") from error
