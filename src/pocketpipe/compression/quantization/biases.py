"""Biases as the device has them: int32, in steps of input step times weight step."""

from __future__ import annotations

from torch import Tensor, nn

from pocketpipe.compression.quantization.grids import BiasGrid, bias_and_factor, bias_grid, folded_grid
from pocketpipe.compression.quantization.quantizers import ActivationQuantizer


class BiasRounding(nn.Module):
    """Adds to a layer's output, in eval mode, what rounding its bias changes (its BatchNorm folded into it).

    Training does without: the step of a bias is about a thousandth of that of the output. The module stands behind
    the layer and its BatchNorm; these, and the quantizer of what the layer reads, are named by their paths.
    """

    rounds_only = True

    def __init__(self, layer: str, norm: str | None, source: str) -> None:
        super().__init__()
        self.layer, self.norm, self.source = layer, norm, source
        self._network: tuple[nn.Module, ...] = ()

    def belong_to(self, network: nn.Module) -> None:
        """Say in which network the paths lead; a copy of it has its own copy of this."""
        self._network = (network,)  # in a tuple: it is no submodule

    def grid(self) -> BiasGrid | None:
        """The bias on its grid; None if the weight is in float."""
        (network,) = self._network
        layer, source = network.get_submodule(self.layer), network.get_submodule(self.source)
        bias, factor = bias_and_factor(layer, network.get_submodule(self.norm) if self.norm else None)
        weight = folded_grid(network, self.layer, factor)
        assert isinstance(source, ActivationQuantizer)
        return None if weight is None or bias is None else bias_grid(bias, weight, source)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, ...) of a convolution, (N, ..., channels) of a linear layer."""
        grid = None if self.training else self.grid()
        if grid is None:
            return x
        (network,) = self._network
        layer = network.get_submodule(self.layer)
        change = (grid.integers * grid.step.double() - grid.bias).to(x.dtype)
        return x + (change if isinstance(layer, nn.Linear) else change.view(-1, *[1] * (x.ndim - 2)))
