"""What a network answers to one example: training needs one tensor, the same while it is trained as afterwards."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from pocketpipe.compression.modules import device_of
from pocketpipe.errors import UserError, first_line
from pocketpipe.training.layout import channels_last

DRAWS = 8
"""One of twelve layers that are skipped one time in twenty is missed by all of them one time in a hundred."""


def answer_shape(network: nn.Module, input_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the answer to one example, without the batch axis.

    Raises UserError if it is no tensor, another one while the network is trained (auxiliary heads), or without a batch
    axis for a single example, or if the network changes what it is given.
    """
    probe = copy.deepcopy(network)  # a forward in training moves BatchNorm's statistics and sets quantizers
    examples = _two_examples(probe, input_shape)
    untouched = examples._version
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        after, during = (_answer(probe.train(mode), examples) for mode in (False, True))
        if examples._version != untouched:
            raise UserError(
                "network: its forward changes its input where it lies (x.sub_, x *= 2); write x = x.sub(...)"
            )
        alone = _answer(probe.eval(), examples[:1])
    if alone.shape != (1, *after.shape[1:]):
        raise UserError(
            f"network: answers {tuple(alone.shape)} to one example, {tuple(after.shape)} to two; it drops the batch "
            "axis (x.squeeze()?): write x.flatten(1)"
        )
    if during.shape != after.shape:
        raise UserError(
            f"network: answers {tuple(during.shape[1:])} while it is trained, {tuple(after.shape[1:])} afterwards; "
            "let it return the same in both"
        )
    return tuple(after.shape[1:])


def has_idle_parameters(network: nn.Module, input_shape: tuple[int, ...]) -> bool:
    """Whether some parameters have no part in what the network answers while it is trained: several processes would
    wait for their gradients. Asked `DRAWS` times, as layers may be skipped by chance."""
    probe = copy.deepcopy(network).train()
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        for draw in range(DRAWS):
            torch.manual_seed(draw)
            probe.zero_grad(set_to_none=True)
            _answer(probe, _two_examples(probe, input_shape)).float().sum().backward()  # type: ignore[no-untyped-call]
            if any(parameter.requires_grad and parameter.grad is None for parameter in probe.parameters()):
                return True
    return False


def _two_examples(network: nn.Module, input_shape: tuple[int, ...]) -> Tensor:
    """Zeros, where the network is; images lie channels last, and so does the network then, as in training."""
    device = device_of(network)
    examples = torch.zeros(2, *input_shape, device=device)
    if examples.ndim != 4:
        return examples
    channels_last(network)
    return examples.contiguous(memory_format=torch.channels_last)


def _answer(network: nn.Module, examples: Tensor) -> Tensor:
    when = "while it is trained" if network.training else "after training"
    try:
        answer = network(examples)
    except Exception as error:  # whatever a network of the user's says
        hint = ""
        if "view size" in str(error):
            hint = "; images lie channels last, which x.view(...) cannot flatten: write x.flatten(1) or x.reshape(...)"
        count = "two examples" if len(examples) > 1 else "one example (x.squeeze() takes the batch axis, too)"
        raise UserError(f"network: it fails on {count} of zeros, {when} ({first_line(error)}){hint}") from error
    if not isinstance(answer, Tensor):
        raise UserError(f"network: answers with a {type(answer).__name__} {when}; return one tensor in both modes")
    return answer
