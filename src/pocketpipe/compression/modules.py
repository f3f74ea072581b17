"""What is asked of modules as such: whose code they run, and that they are in eval mode for a while."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


def is_torchs_own(module: nn.Module) -> bool:
    """Whether its class is torch's, with or without parametrizations (for which torch makes a class of its own)."""
    made_for_weights = "torch.nn.utils.parametrize"
    own = next(kind for kind in type(module).__mro__ if kind.__module__ != made_for_weights)
    return own.__module__.startswith("torch.nn")


def has_torchs_forward(module: nn.Module) -> bool:
    """Whether it computes as torch's own module does; a subclass may pad first, or scale its weight."""
    return type(module).forward.__module__.startswith("torch.nn")


def input_of(inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> Tensor:
    """What a layer was called with, as a hook `with_kwargs` is told it."""
    return inputs[0] if inputs else named["input"]


def device_of(network: nn.Module) -> torch.device:
    """Where its parameters are; the CPU, if it has none."""
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))


@contextmanager
def no_fast_attention() -> Iterator[None]:
    """Attention as it is computed in training, in eval mode too: the fast path there fails under bf16 on CPUs, and a
    graph shows a whole encoder layer as one operator."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def hooked(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """While this lasts, the hooks are there that these handles belong to."""
    held = list(handles)
    try:
        yield
    finally:
        for handle in held:
            handle.remove()


def with_gradients(network: nn.Module) -> AbstractContextManager[object]:
    """While this lasts, a `network` in eval mode has gradients on a GPU, too: cuDNN's recurrent modules have none."""
    recurrent = any(isinstance(module, nn.RNNBase) for module in network.modules())
    return torch.backends.cudnn.flags(enabled=not recurrent)  # type: ignore[no-untyped-call]


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """While this lasts, `network` is in eval mode; afterwards each module is in the mode that it was in."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
