"""What a network is tried out with: an example that it takes, and parameters through which everything shows."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

_EXAMPLES: WeakKeyDictionary[nn.Module, Tensor] = WeakKeyDictionary()


def example_for(network: nn.Module, input_shape: tuple[int, ...]) -> Tensor:
    """(1, *input_shape): random numbers if the network takes them; else positive ones or zeros, as token ids are.

    Kept with the network, whose structure must not change.
    """
    if network not in _EXAMPLES:
        generator = torch.Generator().manual_seed(0)
        shape = (1, *input_shape)
        tries = (torch.randn(shape, generator=generator), torch.rand(shape, generator=generator), torch.zeros(shape))
        _EXAMPLES[network] = next((example for example in tries if _takes(network, example)), tries[0])
    return _EXAMPLES[network]


def _takes(network: nn.Module, example: Tensor) -> bool:
    try:
        with torch.no_grad():
            network(example)
    except Exception:  # the forward is the user's code, and may fail in any way
        return False
    return True


def stir(network: nn.Module, input_shape: tuple[int, ...]) -> None:
    """Give parameters and BatchNorm's statistics values that hide nothing, in place.

    Heads of zeros and scales of 1e-6, as initializers leave them, would let any mistake pass; and what can be thinned
    must not depend on weights, since a pinned plan is replayed on a fresh network. Does nothing where the outputs
    would not be finite (a root of a parameter).
    """
    given = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(_drawn(parameter.shape, name.endswith("bias"), generator))
        for module in network.modules():
            if isinstance(module, _BatchNorm) and module.track_running_stats:
                module.reset_running_stats()
        if not _finite(network, example_for(network, input_shape)):
            network.load_state_dict(given)


def _drawn(shape: torch.Size, is_bias: bool, generator: torch.Generator) -> Tensor:
    """Uniform: weights as He et al. 2015 scale them, scales about 1, biases about 0."""
    drawn = torch.rand(shape, generator=generator)
    if len(shape) >= 2:
        return (2 * drawn - 1).mul_((6 / max(1, shape[1:].numel())) ** 0.5)
    return 0.2 * drawn - 0.1 if is_bias else drawn + 0.5


def _finite(network: nn.Module, example: Tensor) -> bool:
    from torch.utils._pytree import tree_leaves

    try:
        return all(bool(each.isfinite().all()) for each in tree_leaves(network(example)) if isinstance(each, Tensor))
    except Exception:  # as above; what is wrong with it is said elsewhere
        return False
