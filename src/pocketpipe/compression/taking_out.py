"""Takes whole modules out of a network, and moves the ones that stay up into their places."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor, nn


class TakenOut(nn.Module):
    """Where a block was: hands on the first thing that it is given (a block may be called with masks and flags too).

    >>> import torch
    >>> TakenOut()(torch.ones(2), mask=None)
    tensor([1., 1.])
    """

    def forward(self, *args: object, **kwargs: object) -> Tensor:
        """The first argument as it is: a tensor, or what stands for one while the network is traced."""
        first: Tensor = [*args, *kwargs.values()][0]  # type: ignore[assignment]
        return first


def emptied(network: nn.Module, places: Iterable[str]) -> dict[str, nn.Module]:
    """What to `put` so that nothing is left at `places` (paths of modules)."""
    return {place: TakenOut().train(network.training) for place in places}


def moved_up(network: nn.Module, places: Sequence[str], kept: Sequence[str]) -> dict[str, nn.Module]:
    """What to `put` so that the modules at `kept`, a part of `places`, come to stand at the first of `places`."""
    stay = {place: network.get_submodule(path) for place, path in zip(places, kept, strict=False)}
    return stay | emptied(network, places[len(kept) :])


def put(network: nn.Module, modules: Mapping[str, nn.Module]) -> None:
    """Set the modules at these paths, in place."""
    for path, module in modules.items():
        parent, _, name = path.rpartition(".")
        setattr(network.get_submodule(parent), name, module)


@contextmanager
def swapped(network: nn.Module, modules: Mapping[str, nn.Module]) -> Iterator[None]:
    """As `put`, undone at the end."""
    before = {path: network.get_submodule(path) for path in modules}
    put(network, modules)
    try:
        yield
    finally:
        put(network, before)
