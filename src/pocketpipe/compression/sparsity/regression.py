"""Layer-wise regression: the weights that a mask leaves are refitted to the outputs that the layer had without it.

The idea of He et al. 2017 (section 3.1) for channels, and of Optimal Brain Surgeon layer by layer (Dong et al. 2017;
Frantar & Alistarh 2022, section 3, for a mask that is given) for single weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pocketpipe.compression.members import ReadingModule, reading_module
from pocketpipe.compression.modules import device_of, evaluating
from pocketpipe.compression.refitting import RIDGE, refitting, targets
from pocketpipe.compression.sampling import training_views
from pocketpipe.compression.sparsity.mask import Mask
from pocketpipe.compression.weights import is_shared, laid_on, set_weight

if TYPE_CHECKING:
    from pocketpipe.task import Split, Task


@torch.no_grad()
def refit(network: nn.Module, before: nn.Module, task: Task, data: Split) -> tuple[str, ...]:
    """Refit, in place, what masks leave of the layers of `network`, which is `before` with masks; returns their names.

    One layer after the other as they run: each sees what those before it, refitted already, make of training
    views of `data`, and comes as near as it can to its outputs in `before`. A layer that runs more than once,
    or is no plain product (grouped, transposed, a bare matrix), keeps the weights that it has.
    """
    device = device_of(network)
    examples = training_views(task, data, device, wanted_by="sparsity.regression")
    masks = _masked_layers(network)

    def refitted(layer: str, module: ReadingModule, inputs: Tensor, outputs: Tensor) -> None:
        weight, bias = fitted(inputs, outputs, module.weight.flatten(1), masks[layer].flatten(1), module.bias)
        set_weight(network, layer, weight.view_as(module.weight))
        if module.bias is not None and bias is not None:
            module.bias.copy_(bias)

    wanted = targets(before, masks, examples)
    with evaluating(network), refitting(network, wanted, refitted):
        network(examples)
    return tuple(wanted)


DUAL = 4
"""A layer that reads so many times more inputs than there are rows is fitted by equations of rows."""


def fitted(
    inputs: Tensor, outputs: Tensor, weight: Tensor, mask: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """The weight (channels, inputs), zero outside `mask`, and bias that bring `inputs` nearest to `outputs`.

    `inputs` (rows, inputs), `outputs` (rows, channels). For each channel by itself: ridge regression around the given
    weight, min |inputs @ w + b - outputs|^2 + r |w - weight|^2 over the w that `mask` allows, where r is `RIDGE`
    times the mean square of an input, summed over rows; so where the examples say nothing, a weight stays. A bias is
    fitted freely, if there is one. In double precision, by the normal equations.
    """
    x, y, start = inputs.double(), outputs.double(), weight.double() * mask
    x_mean, y_mean = x.mean(0), y.mean(0)
    if bias is not None:
        x, y = x - x_mean, y - y_mean
    ridge = RIDGE * x.square().sum(0).mean()
    missing = y - x @ start.T  # solved for the change of the weight: the pull is towards zero change
    found = start.clone()
    if ridge > 0 and DUAL * len(x) < x.shape[1]:  # the dual form: as many equations as rows
        for channel, kept in enumerate(mask):
            gram = x[:, kept] @ x[:, kept].T
            gram.diagonal().add_(ridge)
            lower = torch.linalg.cholesky(gram)
            found[channel, kept] += x[:, kept].T @ torch.cholesky_solve(missing[:, channel, None], lower).squeeze(1)
    elif ridge > 0:
        gram, wanted = x.T @ x, x.T @ missing
        gram.diagonal().add_(ridge)
        for channel, kept in enumerate(mask):
            lower = torch.linalg.cholesky(gram[kept][:, kept])
            found[channel, kept] += torch.cholesky_solve(wanted[kept, channel, None], lower).squeeze(1)
    shift = None if bias is None else (y_mean - found @ x_mean).to(bias.dtype)
    return found.to(weight.dtype), shift


def _masked_layers(network: nn.Module) -> dict[str, Tensor]:
    """For each layer that is a plain product and has masks on a weight of its own, what all of them leave."""
    found = {}
    for name, module in network.named_modules():
        if isinstance(reading_module(network, name), ReadingModule) and isinstance(module.weight, Tensor):
            masks = [entry.mask for entry in laid_on(network, name) if isinstance(entry, Mask)]
            if masks and not is_shared(network, name):  # the other layer reads something else
                found[name] = torch.stack(masks).all(0)
    return found
