"""Layer-wise regression: the weights that a mask leaves are refitted to the outputs that the layer had without it.

The idea of He et al. 2017 (section 3.1) for channels, and of Optimal Brain Surgeon layer by layer (Dong et al. 2017;
Frantar & Alistarh 2022, section 3, for a mask that is given) for single weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pocketpipe.compression.batchnorm import batch_statistics
from pocketpipe.compression.members import ReadingModule, reading_module
from pocketpipe.compression.modules import device_of, evaluating
from pocketpipe.compression.refitting import fitted, refitting, wanted_outputs
from pocketpipe.compression.sampling import training_views
from pocketpipe.compression.sparsity.mask import Mask
from pocketpipe.compression.weights import is_shared, laid_on, set_weight

if TYPE_CHECKING:
    from pocketpipe.task import Split, Task


@torch.no_grad()
def refit(network: nn.Module, before: nn.Module, task: Task, data: Split) -> tuple[str, ...]:
    """Refit, in place, what masks leave of the layers of `network`, which is `before` with masks; returns their names.

    One layer after the other as they run: each sees what those before it, refitted already, make of training
    views of `data`, normalized as they will be once BatchNorm is measured anew, and comes as near as it can to its
    outputs in `before`. A layer that runs more than once, or is no plain product (grouped, transposed, a bare
    matrix), keeps the weights that it has.
    """
    device = device_of(network)
    examples = training_views(task, data, device, wanted_by="sparsity.regression")
    masks = _masked_layers(network)

    def refitted(layer: str, module: ReadingModule, inputs: Tensor, outputs: Tensor) -> None:
        free, mask = module.bias is not None, masks[layer].flatten(1)
        weight, bias = fitted(inputs, outputs, module.weight.flatten(1), with_bias=free, mask=mask)
        set_weight(network, layer, weight.view_as(module.weight))
        if module.bias is not None:
            module.bias.copy_(bias)

    wanted = wanted_outputs(before, masks, examples)
    with evaluating(network), batch_statistics(network), refitting(network, wanted, refitted):
        network(examples)
    return tuple(wanted)


def _masked_layers(network: nn.Module) -> dict[str, Tensor]:
    """For each layer that is a plain product and has masks on a weight of its own, what all of them leave."""
    found = {}
    for name, module in network.named_modules():
        if isinstance(reading_module(network, name), ReadingModule) and isinstance(module.weight, Tensor):
            masks = [entry.mask for entry in laid_on(network, name) if isinstance(entry, Mask)]
            if masks and not is_shared(network, name):  # the other layer reads something else
                found[name] = torch.stack(masks).all(0)
    return found
