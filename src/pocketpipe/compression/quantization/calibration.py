"""Steps and zero points from data: what a quantized network must know of the numbers that it will round."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from pocketpipe.compression.modules import device_of, evaluating, hooked
from pocketpipe.compression.quantization.adaround import WeightGrid
from pocketpipe.compression.quantization.biases import BiasRounding
from pocketpipe.compression.quantization.clipping import Ranges
from pocketpipe.compression.quantization.grids import quantized_layers, weight_quantizer
from pocketpipe.compression.quantization.insertion import quantizers_of
from pocketpipe.compression.quantization.quantizers import ActivationQuantizer, WeightQuantizer, lsq_step, positive
from pocketpipe.compression.quantization.ranges import Observer, not_too_narrow, weight_limit, weight_scales
from pocketpipe.compression.sparsity.mask import Mask
from pocketpipe.compression.weights import laid_on, original_of, parameter_name

WeightRanges = Literal["minmax", "mse", "lsq"]


@torch.no_grad()
def set_weight_steps(network: nn.Module, ranges: WeightRanges) -> None:
    """Set the steps of all weights from the weights: `minmax` and `mse` by `ranges`, `lsq` as LSQ starts."""
    for layer in quantized_layers(network):
        quantizer = weight_quantizer(network, layer)
        quantizer.set_step(weight_steps(_before(network, layer, quantizer), quantizer.bits, quantizer.axis, ranges))


def weight_steps(weight: Tensor, bits: int, axis: int | None, ranges: WeightRanges) -> Tensor:
    """(channels,) steps along `axis` of a weight; (1,) if it is None."""
    rows = weight.flatten()[None] if axis is None else weight.movedim(axis, 0).flatten(1)
    if ranges == "lsq":
        kept = (row[row != 0] if row.any() else row for row in rows)  # a mask's zeros lie on any grid
        return not_too_narrow(torch.stack([lsq_step(row, weight_limit(bits)) for row in kept]), weight_limit(bits))
    return weight_scales(rows, bits, ranges)


@torch.no_grad()
def set_activation_steps(network: nn.Module, batches: Iterable[Tensor], ranges: Ranges) -> None:
    """Set step and zero point of every tensor from what `batches` of prepared inputs (N, ...) make of it.

    Weights are rounded meanwhile; tensors are not, nor biases, whose steps depend on those of tensors. Modes are as
    before afterwards.
    """
    quantizers = quantizers_of(network)
    observers = {name: Observer() for name in quantizers}
    handles = [quantizer.register_forward_hook(_observing(observers[name])) for name, quantizer in quantizers.items()]
    handles += [each.register_forward_hook(_unrounded) for each in network.modules() if isinstance(each, BiasRounding)]
    device = device_of(network)
    with hooked(handles), evaluating(network):
        for batch in batches:
            network(batch.to(device))
    for name, quantizer in quantizers.items():
        quantizer.set_range(*observers[name].range(quantizer.bits, ranges))


@torch.no_grad()
def take_parameters(network: nn.Module, source: nn.Module) -> None:
    """Set every parameter that `source` has, quantizers or not, to its value there."""
    values = {parameter_name(name): parameter for name, parameter in source.named_parameters()}
    for name, parameter in network.named_parameters():
        if parameter_name(name) in values:
            parameter.copy_(values[parameter_name(name)])


def weight_grids(network: nn.Module) -> dict[str, WeightGrid]:
    """Grids of the weights that can be set to what is rounded: on these lie masks and quantizers alone.

    A codebook makes its weight of other numbers, a parametrization of the user's (`spectral_norm`) changes what is set.
    """
    quantizers = {
        layer: weight_quantizer(network, layer)
        for layer in quantized_layers(network)
        if all(isinstance(each, Mask | WeightQuantizer) for each in laid_on(network, layer))
    }
    return {
        layer: WeightGrid(positive(quantizer.scale.detach()), quantizer.bits) for layer, quantizer in quantizers.items()
    }


def _observing(observer: Observer) -> Callable[[nn.Module, tuple[Tensor], Tensor], Tensor]:
    """A hook that looks at what comes in and lets it through unrounded."""

    def hook(module: nn.Module, inputs: tuple[Tensor], rounded: Tensor) -> Tensor:
        assert isinstance(module, ActivationQuantizer)
        observer.see(module.told(inputs[0]))
        return _unrounded(module, inputs, rounded)

    return hook


def _unrounded(module: nn.Module, inputs: tuple[Tensor], rounded: Tensor) -> Tensor:
    """A hook that lets through what comes in."""
    return inputs[0]


def _before(network: nn.Module, layer: str, quantizer: WeightQuantizer) -> Tensor:
    """The layer's weight with masks and codebooks on it, as the quantizer gets it."""
    weight = original_of(network, layer)
    for each in laid_on(network, layer):
        if each is quantizer:
            break
        weight = each(weight)
    return weight
