"""GPTQ: weights are rounded one input after the other, and those still to come make up for what that changed.

Frantar et al. 2023, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", arXiv
2210.17323. As in the paper: inverse Hessian by Cholesky (section 3.3, step 3), inputs in blocks (step 2), 1 % of
damping, inputs of most energy first ("act-order" of the authors' code). Ours: any rounding, so that codebooks choose
their indices by it as integer grids choose their integers; an output that did not gain by it is rounded to the nearest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from pocketpipe.compression.passing import AtLayer, Recorder, fitted_layers, is_layer, pass_through, sampled_inputs
from pocketpipe.compression.sparsity.mask import Mask
from pocketpipe.compression.weights import laid_on, set_where_seen, weight_of

DAMPING = 0.01
"""Added to the Hessian's diagonal, relative to its mean."""
BLOCK = 128
"""Inputs between two updates of all those that follow."""
POSITIONS = 8192
"""Sampled positions of a layer's output over all examples."""
MOST_INPUTS = 8192
"""A layer with more inputs an output is rounded to the nearest: the Hessian has their square."""

Rounding = Callable[[Tensor], Tensor]
"""(out, n) weights, a row for each output channel -> the same, each at a value that it may have."""
Keep = Callable[[nn.Module, str, Tensor, Tensor], None]
"""(network, layer, weight, where a mask hides it): set the layer's weight."""


def gptq(weight: Tensor, inputs: Tensor, rounding: Rounding, hidden: Tensor | None = None) -> Tensor:
    """`weight` (out, ...) rounded by `rounding` so that products with `inputs` (rows, groups, inputs) change little.

    Inputs are ordered as in `weight.flatten(1)`; groups share the output channels evenly. Every element is at a value
    that `rounding` gives. The squared error on the inputs is in no channel larger than that of rounding the
    weight itself. What a mask hides (`hidden`, of the weight's shape) becomes 0, and the others make up for that, too.
    """
    groups = inputs.shape[1]
    rows = weight.detach().double().view(groups, weight.shape[0] // groups, -1)
    hessian = _hessian(inputs)
    covered = torch.zeros_like(rows, dtype=torch.bool) if hidden is None else hidden.view_as(rows)

    def rounded(columns: Tensor, gone: Tensor) -> Tensor:
        return rounding(columns.flatten(0, 1)).view_as(columns).masked_fill(gone, 0.0)

    nearest, found = rounded(rows, covered), _one_after_the_other(rows, covered, hessian, rounded)
    gain = _error(nearest - rows, hessian) - _error(found - rows, hessian)
    return torch.where(gain[..., None] > 0, found, nearest).view_as(weight).to(weight.dtype)


def _one_after_the_other(
    rows: Tensor, hidden: Tensor, hessian: Tensor, rounded: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """(groups, out, inputs) rounded; `rounded(columns, hidden)` rounds some inputs' weights, as they have become."""
    energy = hessian.diagonal(dim1=1, dim2=2)
    order = energy.argsort(dim=1, descending=True, stable=True)
    left, hidden = (each.gather(2, order[:, None].expand_as(rows)) for each in (rows, hidden))
    factor = _factor(
        hessian.gather(1, order[..., None].expand_as(hessian)).gather(2, order[:, None].expand_as(hessian))
    )
    found = torch.empty_like(left)
    for start in range(0, rows.shape[2], BLOCK):
        block = slice(start, start + BLOCK)
        within, errors = factor[:, block, block], torch.empty_like(left[..., block])
        for place in range(within.shape[1]):
            at = start + place
            column = slice(at, at + 1)
            found[..., column] = rounded(left[..., column], hidden[..., column])
            error = (left[..., column] - found[..., column]) / within[:, place, place, None, None]
            left[..., at : start + BLOCK] -= error * within[:, place, None, place:]
            errors[..., place : place + 1] = error
        left[..., start + BLOCK :] -= errors @ factor[:, block, start + BLOCK :]
    return torch.empty_like(found).scatter(2, order[:, None].expand_as(found), found)


def _hessian(inputs: Tensor) -> Tensor:
    """(groups, inputs, inputs) of the squared error, damped."""
    by_group = inputs.transpose(0, 1).double()
    hessian = by_group.transpose(1, 2) @ by_group
    diagonal = hessian.diagonal(dim1=1, dim2=2)
    diagonal += (DAMPING * diagonal.mean(1, keepdim=True)).clamp_min(torch.finfo(hessian.dtype).tiny ** 0.5)
    return hessian


def _factor(hessian: Tensor) -> Tensor:
    """Upper Cholesky factor of the inverse: row i tells how the inputs after i make up for an error at i."""
    factor: Tensor = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)
    return factor


def _error(change: Tensor, hessian: Tensor) -> Tensor:
    """(groups, out) squared error of a change of the weights (groups, out, inputs)."""
    return (change @ hessian * change).sum(2)


def round_layers(
    network: nn.Module,
    reference: nn.Module,
    batches: Sequence[Tensor],
    roundings: Mapping[str, Rounding],
    *,
    keep: Keep = set_where_seen,
    renormalized: bool = False,
    positions: int = POSITIONS,
    seed: int = 0,
) -> tuple[str, ...]:
    """Set the weights of layers to what `gptq` makes of those of `reference`, in place; returns their names, in order.

    `network` has modules of the same names as `reference` and rounds their weights, as `roundings` says. Layers come in
    order of execution: each sees what those before it, rounded already, make of `batches` of prepared inputs (N, ...),
    at `positions` random positions of its output over all examples. `keep` sets a weight. `renormalized`: BatchNorm's
    statistics will be measured anew afterwards (see `pass_through`).
    Transposed convolutions, layers that are called more than once or share their weight, and those with more than
    `MOST_INPUTS` inputs are left as they are. Raises ValueError without a batch where there is a layer.
    """
    layers = [
        path for path in fitted_layers(reference, roundings) if weight_of(reference, path)[0].numel() <= MOST_INPUTS
    ]
    if not layers:
        return ()
    seeds = {path: seed + number for number, path in enumerate(layers)}
    calls = Recorder(lambda path, module, output: torch.tensor(output.shape))
    pass_through(network, [batch[:1] for batch in batches[:1]], {path: calls.at(path) for path in layers})
    done: list[str] = []

    def fitting(path: str) -> AtLayer:
        def fit(module: nn.Module, inputs: Tensor, output: Tensor) -> Tensor:
            assert is_layer(module)
            weight = weight_of(reference, path).to(inputs.device)
            hidden = (weight == 0) & any(isinstance(each, Mask) for each in laid_on(reference, path))
            rows = sampled_inputs(module, inputs, output, positions, seeds[path])
            keep(network, path, gptq(weight, rows, roundings[path], hidden), hidden)
            done.append(path)
            again: Tensor = module.forward(inputs)
            return again

        return fit

    once = [path for path, shape in calls.made.items() if len(shape) > 1]  # a constant goes through without a batch
    pass_through(network, batches, {path: fitting(path) for path in once}, renormalized=renormalized)
    return tuple(done)
