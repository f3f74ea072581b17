"""Quantized networks as ONNX: integers and scales in the file, QuantizeLinear and DequantizeLinear around operators.

What an operator reads and makes lies on the grid that training rounded to. BatchNorm behind a layer is folded into the
weight's scales, and a negative factor into the signs of its integers: the integers stay what they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pocketpipe.compression.quantization.biases import BiasRounding
from pocketpipe.compression.quantization.grids import (
    Grid,
    bias_and_factor,
    folded_grid,
    folded_integers,
    grid_of,
    layers_with_grids,
)
from pocketpipe.compression.quantization.insertion import QuantizedNetwork
from pocketpipe.compression.quantization.quantizers import ActivationQuantizer, activation_levels, positive
from pocketpipe.compression.quantization.weaving import QUANTIZERS
from pocketpipe.compression.weights import bare, owner

FOUR_BITS = 4
"""Weights of so many bits or fewer are stored two a byte."""
OPSET, OPSET_OF_INT4 = 18, 21
"""Without and with integers of four bits. 18 is the oldest that the dynamo exporter writes without conversion; TVM's
importer reads it."""


def is_quantized(network: nn.Module) -> bool:
    """Whether the network has quantizers."""
    return isinstance(network, QuantizedNetwork)


@dataclass(frozen=True)
class Exportable:
    """A network in the form in which torch exports it as the file is to be."""

    network: nn.Module
    opset: int
    four_bit_layers: frozenset[str]
    """Layers whose integers are to be stored two a byte."""


@torch.no_grad()
def exportable(network: nn.Module, newest: int = OPSET_OF_INT4) -> Exportable:
    """The integers and scales of a quantized network, BatchNorm folded. `network` is not changed.

    `newest`: the newest opset allowed; below that of int4 such integers are stored in eight bits each.
    """
    assert isinstance(network, QuantizedNetwork)
    plain = bare(network)
    grids = {layer: grid for layer in layers_with_grids(network) if (grid := grid_of(network, layer)) is not None}
    small = [layer for layer, grid in grids.items() if grid.bits <= FOUR_BITS]
    four_bits = frozenset(small if newest >= OPSET_OF_INT4 else [])
    opset = OPSET_OF_INT4 if four_bits else OPSET
    for layer, grid in _each_once(network, grids).items():
        factor = _fold_norm(network, plain, layer)
        folded = folded_grid(network, layer, factor) or grid
        _store(plain, layer, folded_integers(network, layer, folded, factor), _Dequantize(folded, opset))
    for name, child in network.get_submodule(QUANTIZERS).named_children():
        if isinstance(child, ActivationQuantizer):
            setattr(plain.get_submodule(QUANTIZERS), name, _RoundTrip(child, opset))
        elif isinstance(child, BiasRounding) and (bias := child.grid()) is not None:
            _store(plain, f"{child.layer}.bias", bias.integers, _Dequantize(Grid(bias.step, 0, 32), opset))
    return Exportable(plain, opset, four_bits)


def _each_once(network: nn.Module, grids: Mapping[str, Grid]) -> dict[str, Grid]:
    """Without further names of a module that the network has under several paths."""
    by_place: dict[tuple[int, str], str] = {}
    for layer in grids:
        module, attribute = owner(network, layer)
        by_place.setdefault((id(module), attribute), layer)
    return {layer: grids[layer] for layer in by_place.values()}


def _fold_norm(network: QuantizedNetwork, plain: nn.Module, layer: str) -> Tensor | None:
    """Take the layer's BatchNorm out of `plain`, into its bias. Returns what is left to do to its weight."""
    norm = network.norms_to_fold.get(layer)
    if norm is None:
        return None
    bias, factor = bias_and_factor(plain.get_submodule(layer), plain.get_submodule(norm))
    assert bias is not None
    plain.get_submodule(layer).register_parameter("bias", nn.Parameter(bias.float(), requires_grad=False))
    plain.set_submodule(norm, nn.Identity())
    return factor


def _store(plain: nn.Module, parameter: str, integers: Tensor, dequantize: _Dequantize) -> None:
    """Let the layer's weight, or another parameter by its name, be dequantized integers."""
    module, attribute = owner(plain, parameter)
    module.register_parameter(attribute, nn.Parameter(integers, requires_grad=False))
    parametrize.register_parametrization(module, attribute, dequantize, unsafe=True)


class _Dequantize(nn.Module):
    """Parametrization: integers to float."""

    def __init__(self, grid: Grid, opset: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(grid.step, requires_grad=False)
        self._attributes: dict[str, Any] = {} if grid.axis is None else {"axis": grid.axis}
        self._opset = opset

    def forward(self, integers: Tensor) -> Tensor:
        return torch.onnx.ops.symbolic(
            "DequantizeLinear", (integers, self.scale), self._attributes,
            dtype=torch.float32, shape=integers.shape, version=self._opset,
        )  # fmt: skip


class _RoundTrip(nn.Module):
    """A tensor to integers and back; fewer than 8 bits are a narrower range of int8."""

    def __init__(self, quantizer: ActivationQuantizer, opset: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(positive(quantizer.scale.detach()), requires_grad=False)
        self.zero_point = nn.Parameter(quantizer.zero_point.to(torch.int8), requires_grad=False)
        self._limits = _limits(quantizer) if quantizer.bits < 8 else None
        self._opset = opset

    def forward(self, x: Tensor) -> Tensor:
        if self._limits is not None:
            x = x.clamp(*self._limits)
        integers = torch.onnx.ops.symbolic(
            "QuantizeLinear", (x, self.scale, self.zero_point),
            dtype=torch.int8, shape=x.shape, version=self._opset,
        )  # fmt: skip
        return torch.onnx.ops.symbolic(
            "DequantizeLinear", (integers, self.scale, self.zero_point),
            dtype=torch.float32, shape=x.shape, version=self._opset,
        )  # fmt: skip


def _limits(quantizer: ActivationQuantizer) -> tuple[float, float]:
    """The real numbers that the smallest and the largest integer stand for."""
    step, zero_point = positive(quantizer.scale.detach()), quantizer.zero_point
    low, high = ((level - zero_point) * step for level in activation_levels(quantizer.bits))
    return float(low), float(high)
