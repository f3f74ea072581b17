"""BatchNorm folded into the layer before it: what remains is one layer with a bias (Jacob et al. 2018, section 3.2)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from pocketpipe.compression.modules import has_torchs_forward
from pocketpipe.compression.quantization.reading import Reading, follows_scaling, read
from pocketpipe.compression.tracing.walking import arguments, operator_name, shape_of
from pocketpipe.compression.weights import along, original_of, set_weight


def factor_and_shift(norm: _BatchNorm, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    """(channels,) each: BatchNorm in eval mode is `x * factor + shift`. Gradients flow to its weight and bias.

    `dtype`: what they are computed in; None = that of the running statistics.

    Raises ValueError for one without running statistics.
    """
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise ValueError("a BatchNorm without running statistics is not a factor and a shift")
    mean, variance = mean.to(dtype), variance.to(dtype)
    factor = torch.rsqrt(variance + norm.eps)
    if norm.weight is not None:
        factor = factor * norm.weight
    shift = -mean * factor
    return factor, shift if norm.bias is None else shift + norm.bias


def scaled_channels(weight: Tensor, factor: Tensor, layer: nn.Module | None = None) -> Tensor:
    """`weight` with each output channel times its element of `factor` (channels,).

    Output channels lie along axis 0; in a transposed convolution, which `layer` tells, along axis 1 of each group.
    """
    if not isinstance(layer, _ConvTransposeNd):
        return weight * along(factor, 0, weight.dim())
    grouped = weight.reshape(layer.groups, -1, *weight.shape[1:])
    return (grouped * factor.reshape(layer.groups, 1, -1, *(1,) * (weight.dim() - 2))).reshape(weight.shape)


def folded(
    weight: Tensor, bias: Tensor | None, norm: _BatchNorm, layer: nn.Module | None = None
) -> tuple[Tensor, Tensor]:
    """(weight, bias) of the layer that computes what `layer` followed by `norm` in eval mode does.

    `layer` is needed for a transposed convolution only. New tensors; gradients flow to weight, bias and norm.
    """
    factor, shift = factor_and_shift(norm)
    return scaled_channels(weight, factor, layer), shift if bias is None else bias * factor + shift


def norms_after(network: nn.Module, input_shape: tuple[int, ...]) -> dict[str, str]:
    """Layer -> the BatchNorm that alone reads its output, by their module paths, in order of execution.

    Layers are convolutions, transposed ones, and linear layers on vectors. Both modules are used once, and the
    BatchNorm has running statistics. Raises UserError for a network without a static graph.
    """
    reading = read(network, input_shape)
    paths = {node: _path(reading, node) for node in reading.nodes if _is_batchnorm(node)}
    pairs = {}
    for node, path in paths.items():
        call = reading.calls.get(arguments(node)["input"])
        if call is None or len(call.node.users) > 1 or list(paths.values()).count(path) > 1:
            continue
        on_vectors = operator_name(call.node) != "aten.linear" or len(shape_of(call.node)) == 2
        if on_vectors and _is_a(network, call.layer, (_ConvNd, nn.Linear)) and _is_a(network, path, (_BatchNorm,)):
            pairs[call.layer] = path
    return pairs


def _is_batchnorm(node: fx.Node) -> bool:
    return node.op == "call_function" and operator_name(node) == "aten.batch_norm"


def _path(reading: Reading, batchnorm: fx.Node) -> str:
    """Path of the module whose running mean it is; empty if it has none."""
    return reading.names.get(arguments(batchnorm)["running_mean"], "").rpartition(".")[0]


def _is_a(network: nn.Module, path: str, kinds: tuple[type[nn.Module], ...]) -> bool:
    return path != "" and any(name == path and isinstance(module, kinds) for name, module in network.named_modules())


@torch.no_grad()
def fold_batchnorm(network: nn.Module, input_shape: tuple[int, ...]) -> nn.Module:
    """A copy in which each BatchNorm of `norms_after` with torch's own forward is folded into its layer; nn.Identity is
    left in its place.

    It computes what `network` does in eval mode, up to rounding. Layers get a bias if they have none. Masked weights
    stay zero. A BatchNorm after a layer with a codebook stays: centroids are no longer shared once channels are scaled.
    Raises UserError for a network without a static graph.
    """
    result = copy.deepcopy(network)
    for layer, path in norms_after(network, input_shape).items():
        module, norm = result.get_submodule(layer), result.get_submodule(path)
        assert isinstance(module, (_ConvNd, nn.Linear))
        assert isinstance(norm, _BatchNorm)
        if not (has_torchs_forward(module) and has_torchs_forward(norm) and follows_scaling(result, layer)):
            continue  # a forward of its own need not add the bias, and may end in an activation
        weight, bias = folded(original_of(result, layer), module.bias, norm, module)
        set_weight(result, layer, weight)
        module.bias = nn.Parameter(bias.to(weight.dtype))
        for alias in [name for name, other in result.named_modules(remove_duplicate=False) if other is norm]:
            result.set_submodule(alias, nn.Identity())
    return result.train(network.training)
