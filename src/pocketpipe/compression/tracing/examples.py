"""What a network is tried out with: an example that it takes, and parameters through which everything shows."""

from __future__ import annotations

from collections.abc import Iterator
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

TOLERANCE = 1e-3
"""Of the largest output: what two ways of computing the same may differ by. Rounding is far below, an error above."""

DRAWS = ((0, False), (1, False), (2, False), (3, True))
"""(seed, whether all parameters are positive, so that roots of them are numbers)."""

_EXAMPLES: WeakKeyDictionary[nn.Module, Tensor] = WeakKeyDictionary()


def example_for(network: nn.Module, input_shape: tuple[int, ...]) -> Tensor:
    """(1, *input_shape): random numbers, positive ones where these are not taken (a root), or zeros.

    Cut to ids of tokens the positive ones are 1 and 2: 0 is often padding, which answers with nothing. Kept with the
    network, whose structure must not change.
    """
    if network not in _EXAMPLES:
        generator = torch.Generator().manual_seed(0)
        shape = (1, *input_shape)
        tries = (
            torch.randn(shape, generator=generator),
            1 + 2 * torch.rand(shape, generator=generator),
            torch.rand(shape, generator=generator),
            torch.zeros(shape),
        )
        _EXAMPLES[network] = next((example for example in tries if _answers(network, example)), tries[0])
    return _EXAMPLES[network]


def examples_for(network: nn.Module, input_shape: tuple[int, ...]) -> Iterator[Tensor]:
    """`example_for`, then the same numbers in other places: for networks of which one example does not show all."""
    example = example_for(network, input_shape)
    for shift in (0, 1, 2, 3, 5):
        yield example.flatten().roll(shift).view_as(example)


def first_output(outputs: object) -> Tensor:
    """The first tensor of what a network returned."""
    tensor: Tensor = tree_leaves(outputs)[0]
    return tensor


def computes_the_same(found: Tensor, expected: Tensor) -> bool:
    """Whether two outputs are equal but for rounding; what is not a number equals nothing."""
    return found.shape == expected.shape and bool((found - expected).abs().max() <= TOLERANCE * expected.abs().max())


def stir(network: nn.Module, input_shape: tuple[int, ...]) -> None:
    """Give parameters and BatchNorm's statistics values that hide nothing, in place.

    Heads of zeros and scales of 1e-6, as initializers leave them, would let any mistake pass; and what can be thinned
    must not depend on weights, since a pinned plan is replayed on a fresh network. Of several draws the first is taken
    whose outputs are finite and not all 0 (a ReLU at the end); if there is none, all stays as given.
    """
    given = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    example = example_for(network, input_shape)
    for seed, positive in DRAWS:
        _draw(network, seed, positive)
        if any(each.any() for each in _answers(network, example)):
            return
    network.load_state_dict(given)


def _draw(network: nn.Module, seed: int, positive: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.is_floating_point():
                drawn = _drawn(parameter.shape, "bias" in name, generator)
                parameter.copy_(drawn.abs_() if positive else drawn)
    for module in network.modules():
        if isinstance(module, _BatchNorm) and module.track_running_stats:
            module.reset_running_stats()


def _drawn(shape: torch.Size, is_bias: bool, generator: torch.Generator) -> Tensor:
    """Uniform: weights as He et al. 2015 scale them, scales about 1, biases about 0."""
    drawn = torch.rand(shape, generator=generator)
    if len(shape) >= 2:
        return (2 * drawn - 1).mul_((6 / max(1, shape[1:].numel())) ** 0.5)
    return 0.2 * drawn - 0.1 if is_bias else drawn + 0.5


def _answers(network: nn.Module, example: Tensor) -> list[Tensor]:
    """All that the network says; nothing if it fails, or says what is not finite."""
    try:
        with torch.no_grad():
            answers = [each for each in tree_leaves(network(example.clone())) if isinstance(each, Tensor)]
    except Exception:  # the forward is the user's code, and may fail in any way
        return []
    return answers if all(bool(each.isfinite().all()) for each in answers) else []
