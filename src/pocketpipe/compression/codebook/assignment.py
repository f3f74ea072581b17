"""Which of its layer's values a weight gets: by the layer's outputs, not by the weight alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from torch import Tensor, nn

from pocketpipe.compression.codebook.parametrization import Codebook
from pocketpipe.compression.gptq import round_layers
from pocketpipe.compression.modules import device_of
from pocketpipe.compression.sampling import training_views
from pocketpipe.compression.weights import laid_on, set_where_seen

if TYPE_CHECKING:
    from pocketpipe.task import Split, Task


def choose_by_outputs(network: nn.Module, before: nn.Module, layers: Iterable[str], task: Task, data: Split) -> None:
    """Let GPTQ choose, in place, among the values that these layers of `network` have; `before` has the weights.

    What a layer reads is what the layers before it make of training views of `data`. Layers that GPTQ leaves alone
    (see `round_layers`) keep the nearest values.
    """
    views = training_views(task, data, device_of(network), wanted_by="codebook.assignment: gptq (nearest does without)")
    roundings = {layer: _codebook(network, layer).rounding() for layer in layers}
    round_layers(network, before, [views], roundings, keep=_keep, renormalized=True)


def _keep(network: nn.Module, layer: str, weight: Tensor, hidden: Tensor) -> None:
    set_where_seen(network, layer, weight, hidden)
    _codebook(network, layer).choose(weight)


def _codebook(network: nn.Module, layer: str) -> Codebook:
    return next(each for each in laid_on(network, layer) if isinstance(each, Codebook))
