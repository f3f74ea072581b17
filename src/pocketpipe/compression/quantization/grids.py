"""The grids on which a quantized network's weights and biases lie, before and after BatchNorm is folded into them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from pocketpipe.compression.quantization.folding import factor_and_shift
from pocketpipe.compression.quantization.quantizers import ActivationQuantizer, WeightQuantizer, positive
from pocketpipe.compression.quantization.ranges import NARROWEST
from pocketpipe.compression.weights import along, laid_on, layer_name, output_axis, owner, weight_of

CODEBOOK_BITS = 8
"""A codebook of integers has them of so many bits."""
LARGEST_BIAS = 2**31 - 1


@dataclass(frozen=True)
class Grid:
    """The steps of a weight: (channels,) along `axis`; a scalar if that is None."""

    step: Tensor
    axis: int | None
    bits: int

    def along(self, ndim: int) -> Tensor:
        """The steps, shaped to broadcast against the weight."""
        return along(self.step, self.axis, ndim)

    def folded(self, factor: Tensor, axis: int) -> Grid:
        """The steps of the weight times a factor (channels,) for each position along `axis`.

        None is below `NARROWEST` of the largest: a bias is counted in them. Where all factors are 0 the steps stay.
        """
        step = (self.step.double() * factor.abs()).to(self.step.dtype)
        step = torch.where(step.max() > 0, torch.maximum(step, step.max() * NARROWEST), self.step)
        return replace(self, step=step, axis=axis)


def quantized_layers(network: nn.Module) -> tuple[str, ...]:
    """Names of the layers with a WeightQuantizer on their weight; of a weight with two names the first."""
    return tuple(
        layer_name(f"{path.rpartition('.')[0]}.original")
        for path, module in network.named_modules()
        if isinstance(module, WeightQuantizer)
    )


def layers_with_grids(network: nn.Module) -> tuple[str, ...]:
    """Names of the layers whose weights are integers times steps: by a quantizer, or by a codebook of integers."""
    laid = [
        layer_name(f"{path}.original")
        for path, module in network.named_modules(remove_duplicate=False)
        if isinstance(module, parametrize.ParametrizationList)
    ]
    return tuple(layer for layer in laid if grid_of(network, layer) is not None)


def weight_quantizer(network: nn.Module, layer: str) -> WeightQuantizer:
    """The quantizer on the layer's weight. Raises StopIteration if there is none."""
    return next(each for each in laid_on(network, layer) if isinstance(each, WeightQuantizer))


def own_step(network: nn.Module, layer: str) -> Tensor | None:
    """The step of a weight that lies on a grid of its own (a codebook of integers); None if there is none."""
    scales = [getattr(each, "grid_scale", None) for each in laid_on(network, layer)]
    return next((scale for scale in scales if isinstance(scale, Tensor)), None)


def grid_of(network: nn.Module, layer: str) -> Grid | None:
    """The grid of the layer's weight; None for a weight in float."""
    own = own_step(network, layer)
    if own is not None:
        step, axis = own.detach().flatten(), output_axis(owner(network, layer)[0])
        return Grid(step, axis, CODEBOOK_BITS) if len(step) > 1 else Grid(step.reshape(()), None, CODEBOOK_BITS)
    for each in laid_on(network, layer):
        if isinstance(each, WeightQuantizer):
            step = positive(each.scale.detach())
            return Grid(step if each.axis is not None else step.reshape(()), each.axis, each.bits)
    return None


def folded_grid(network: nn.Module, layer: str, factor: Tensor | None) -> Grid | None:
    """The grid of the layer's weight times `factor` (channels,), if there is one; None for a weight in float."""
    grid = grid_of(network, layer)
    if grid is None or factor is None:
        return grid
    return grid.folded(factor, output_axis(owner(network, layer)[0]))


def folded_integers(network: nn.Module, layer: str, grid: Grid, factor: Tensor | None) -> Tensor:
    """int8, shaped like the weight: the weight times `factor` in steps of `grid` (which is folded with it)."""
    weight = weight_of(network, layer).detach().double()
    if factor is not None:
        weight = weight * along(factor, grid.axis, weight.ndim)
    return (weight / grid.along(weight.ndim).double()).round().to(torch.int8)


def bias_and_factor(layer: nn.Module, norm: nn.Module | None) -> tuple[Tensor | None, Tensor | None]:
    """(bias of a layer with its BatchNorm folded in, what its weight is multiplied by), each (channels,), float64.

    None for a layer without bias and BatchNorm, and for one without BatchNorm.
    """
    own: Any = layer.bias
    bias = None if own is None else own.detach().double()
    if norm is None:
        return bias, None
    assert isinstance(norm, _BatchNorm)
    factor, shift = (each.detach() for each in factor_and_shift(norm, torch.float64))
    return (shift if bias is None else bias * factor + shift), factor


@dataclass(frozen=True)
class BiasGrid:
    """A bias as int32 in steps of input step times weight step, (channels,) each."""

    integers: Tensor
    step: Tensor
    bias: Tensor
    """As it is before rounding, float64."""


def bias_grid(bias: Tensor, weight: Grid, source: ActivationQuantizer) -> BiasGrid:
    """The bias (channels,) of a layer with a weight on the grid `weight` that reads what `source` rounds."""
    step = (positive(source.scale.detach()) * weight.step).expand(bias.shape)
    integers = (bias / step.double()).round().clamp(-LARGEST_BIAS, LARGEST_BIAS)
    return BiasGrid(integers.to(torch.int32), step, bias)
