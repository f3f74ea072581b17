"""What is known of a tensor inside the network while its graph is walked: which axis carries channels, and whose."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pocketpipe.compression.tracing.labels import repeated


@dataclass(frozen=True)
class Activation:
    """A tensor of the graph. At most one of its axes carries labels; all positions along the others are alike."""

    shape: tuple[int, ...]
    dim: int = 0
    labels: Tensor | None = None
    """(shape[dim],); None = nothing in it follows a weight axis."""
    origin: str = "the network's input"
    """What made its size, for the reason why channels that meet it must stay."""
    parameter: str | None = None
    """Set if this is a parameter or buffer itself, of the same shape: its axes have labels of their own."""
    follows: bool = False
    """Made by the network's code with a size of its own (`torch.zeros(...)`), which may follow the channels."""

    @property
    def reason(self) -> str | None:
        """Why channels that meet its fixed positions must stay; None for the network's input, which needs no word."""
        return None if self.origin == Activation.origin else self.origin

    def spread(self) -> Tensor:
        """The label of every element, as a view."""
        assert self.labels is not None
        return repeated(self.labels, self.shape, self.dim)


def gathered(spread: Tensor) -> tuple[int, Tensor] | None:
    """(dim, labels) of a tensor with one label an element; None unless they vary along just one dimension.

    >>> import torch
    >>> gathered(torch.tensor([[4, 4], [5, 5]]))
    (0, tensor([4, 5]))
    >>> gathered(torch.tensor([[4, 5], [6, 7]])) is None
    True
    """
    dims = varying(spread)
    return (dims[0], lines(spread, dims).clone()) if len(dims) == 1 else None


def varying(spread: Tensor) -> list[int]:
    """The dimensions along which labels differ.

    >>> import torch
    >>> varying(torch.tensor([[4, 4], [5, 5]]))
    [0]
    """
    return [dim for dim in range(spread.dim()) if _varies(spread, dim)]


def lines(spread: Tensor, dims: list[int]) -> Tensor:
    """`spread` at index 0 of all dimensions but `dims`, which keep their order."""
    return spread[tuple(slice(None) if dim in dims else 0 for dim in range(spread.dim()))]


def _varies(spread: Tensor, dim: int) -> bool:
    if spread.shape[dim] == 1 or spread.stride(dim) == 0:
        return False
    return bool((spread != spread.narrow(dim, 0, 1)).any())
