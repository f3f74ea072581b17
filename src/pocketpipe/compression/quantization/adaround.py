"""AdaRound: whether a weight is rounded up or down is learned, so that the layer's outputs stay what they were.

Nagel et al. 2020, "Up or Down? Adaptive Rounding for Post-Training Quantization", arXiv 2004.10568. As in the paper:
rectified sigmoid (equations 22, 23), annealed regularizer (24), asymmetric reconstruction (25), layer after layer.
Ours, to be fast: each layer is fitted on a sample of its output positions; errors count relative to those of nearest
rounding, channel by channel, which makes one weight of the regularizer do for all layers and bits; a channel that did
not gain by it keeps nearest rounding. The activation function is not part of the reconstruction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from pocketpipe.compression.passing import (
    AtLayer,
    Recorder,
    fitted_layers,
    is_layer,
    pass_through,
    sampled_inputs,
    sampled_outputs,
)
from pocketpipe.compression.quantization.ranges import weight_limit
from pocketpipe.compression.weights import set_where_seen, weight_of

STRETCH, SHIFT = 1.2, -0.1
"""Rectified sigmoid: h(V) = clip(1.2 sigmoid(V) - 0.1, 0, 1)."""
BETAS = (20.0, 2.0)
"""Exponent of the regularizer, from the first to the last iteration that has it."""
FREE = 0.2
"""Share of the iterations before the regularizer sets in."""

Forward = Callable[[Tensor, Tensor], Tensor]
"""(weight, inputs (n, ...)) -> outputs (n, out, ...)."""


@dataclass(frozen=True)
class WeightGrid:
    """The grid that a layer's weight is to lie on."""

    scales: Tensor
    """(out,), or (1,) for all channels."""
    bits: int

    def nearest(self, rows: Tensor) -> Tensor:
        """Rows (out, n) of a weight on the grid."""
        step = self.scales.to(rows)[:, None]
        return _on_grid((rows / step).round(), step, weight_limit(self.bits))


def adaround(
    weight: Tensor,
    scales: Tensor,
    inputs: Tensor,
    targets: Tensor,
    forward: Forward,
    bits: int,
    *,
    iterations: int = 300,
    seed: int = 0,
    batch_size: int = 256,
    learning_rate: float = 0.1,
    strength: float = 3.0,
) -> Tensor:
    """`weight` (out, ...) rounded up or down so that `forward(weight, inputs)` is near `targets` (n, out, ...).

    The result lies on the grid of `scales` (out,) or (1,): nearest rounding gives it back. Its squared error on the
    inputs is in no channel larger than that of nearest rounding. Weights of exactly 0 (masked ones) stay 0.
    `strength` weighs the regularizer against the error. Deterministic for a seed.
    """
    weight, step = weight.detach(), scales.detach().reshape(-1, *(1,) * (weight.dim() - 1))
    rounding = _Rounding(weight, step, weight_limit(bits))
    nearest = rounding.nearest()
    with torch.no_grad():
        usual = _errors(forward(nearest, inputs), forward(weight, inputs))
    relative = torch.where(usual > 0, 1 / usual, 0.0)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam([rounding.logits], learning_rate)
    for iteration in range(iterations):
        picked = torch.randint(len(inputs), (min(batch_size, len(inputs)),), generator=generator).to(inputs.device)
        with torch.enable_grad():
            up = rounding.up()
            errors = _errors(forward(rounding.weight(up), inputs[picked]), targets[picked])
            loss = (errors * relative).mean() + strength * _undecided(up, iteration / iterations)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        learned = rounding.weight((rounding.up() >= 0.5).to(weight.dtype))
        gain = _errors(forward(nearest, inputs), targets) - _errors(forward(learned, inputs), targets)
        return torch.where((gain > 0).reshape(-1, *(1,) * (weight.dim() - 1)), learned, nearest)


class _Rounding:
    """The variables of one weight: how far each element is rounded up, starting where the weight lies."""

    def __init__(self, weight: Tensor, step: Tensor, limit: int) -> None:
        self._integers, self._step, self._limit = weight / step, step, limit
        self._floor = self._integers.floor()
        self._free = weight != 0
        start = (self._integers - self._floor - SHIFT) / STRETCH
        self.logits = nn.Parameter(start.logit())

    def nearest(self) -> Tensor:
        """The weight rounded to the nearest grid point."""
        return _on_grid(self._integers.round(), self._step, self._limit)

    def up(self) -> Tensor:
        """How far each element is rounded up, 0 to 1."""
        return (STRETCH * self.logits.sigmoid() + SHIFT).clamp(0, 1) * self._free

    def weight(self, up: Tensor) -> Tensor:
        """The weight rounded up so far."""
        return _on_grid(self._floor + up, self._step, self._limit)


def _on_grid(integers: Tensor, step: Tensor, limit: int) -> Tensor:
    return integers.clamp(-limit, limit) * step + 0.0  # no negative zeros


def _undecided(up: Tensor, progress: float) -> Tensor:
    """The regularizer: 0 where all elements are rounded up or down, at most 1."""
    if progress < FREE:
        return up.new_zeros(())
    beta = BETAS[0] + (BETAS[1] - BETAS[0]) * (progress - FREE) / (1 - FREE)
    return (1 - (2 * up - 1).abs().pow(beta)).mean()


def _errors(outputs: Tensor, targets: Tensor) -> Tensor:
    """(out,) mean squared error of each channel of (n, out, ...)."""
    return (outputs - targets).square().movedim(1, 0).flatten(1).mean(1)


def round_network(
    quantized: nn.Module,
    reference: nn.Module,
    batches: Sequence[Tensor],
    grids: Mapping[str, WeightGrid],
    *,
    iterations: int = 300,
    seed: int = 0,
    positions: int = 8192,
) -> None:
    """Set the weights of the layers in `grids` to what `adaround` makes of them, in place, in order of execution.

    `quantized` has modules of the same names as `reference` and rounds its weights to these grids. Each layer is
    fitted at `positions` random positions of its output over all examples: inputs as `quantized` makes them of
    `batches` of prepared inputs (N, ...), with all layers before it rounded already; targets as `reference` has them.
    Transposed convolutions, and layers that are called more than once or share their weight, keep nearest rounding.
    Raises ValueError without a batch.
    """
    layers = fitted_layers(reference, grids)
    seeds = {path: seed + number for number, path in enumerate(layers)}

    def sampled(path: str, module: nn.Module, output: Tensor) -> Tensor:
        assert is_layer(module)
        return sampled_outputs(module, output, positions, seeds[path])

    def fitting(path: str, target: Tensor) -> AtLayer:
        def fit(module: nn.Module, inputs: Tensor, output: Tensor) -> Tensor:
            assert is_layer(module)
            weight = weight_of(reference, path).to(inputs.device)
            rounded = adaround(
                weight,
                grids[path].scales.to(inputs.device),
                sampled_inputs(module, inputs, output, positions, seeds[path]),
                target.to(inputs.device),
                _product(module),
                grids[path].bits,
                iterations=iterations,
                seed=seeds[path],
            )
            set_where_seen(quantized, path, rounded, weight == 0)
            again: Tensor = module.forward(inputs)
            return again

        return fit

    targets = Recorder(sampled)
    pass_through(reference, batches, {path: targets.at(path) for path in layers})
    pass_through(quantized, batches, {path: fitting(path, target) for path, target in targets.made.items()})


def _product(module: nn.Module) -> Forward:
    """The layer's outputs (n, out) from its patches."""
    assert is_layer(module)
    groups = module.groups if isinstance(module, _ConvNd) else 1

    def forward(weight: Tensor, inputs: Tensor) -> Tensor:
        rows = weight.reshape(groups, weight.shape[0] // groups, -1)
        products = torch.bmm(inputs.transpose(0, 1), rows.transpose(1, 2)).transpose(0, 1).flatten(1)
        return products if module.bias is None else products + module.bias.detach()

    return forward
