"""Auxiliary classifiers along a network, trained with it: what later layers read still tells the classes apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from pocketpipe.compression.distillation import channels_last
from pocketpipe.errors import UserError
from pocketpipe.training.features import positions, shapes_made, width
from pocketpipe.training.recipe import Auxiliary


class AuxiliaryClassifiers(nn.Module):
    """A classifier at each of `points`, module paths of the network, and their share of the loss.

    Zhuang et al. 2018, "Discrimination-aware Channel Pruning for Deep Neural Networks", section 3.2: BatchNorm, ReLU,
    mean over positions, one linear layer. Here all of them learn at once, as in Lee et al. 2015, "Deeply-Supervised
    Nets". They are no part of what is delivered.
    """

    def __init__(self, points: Sequence[str], widths: Sequence[int], outputs: int, weight: float) -> None:
        super().__init__()
        self.points = tuple(points)
        self.heads = nn.ModuleList(_Head(width, outputs) for width in widths)
        self._weight = weight

    @classmethod
    def on(
        cls, network: nn.Module, input_shape: tuple[int, ...], answer: tuple[int, ...], choice: Auxiliary
    ) -> AuxiliaryClassifiers:
        """For a network whose answer to an example is of shape `answer`. Raises UserError as `points_of`."""
        points = points_of(network, input_shape, answer, choice)
        return cls(list(points), [width(shape) for shape in points.values()], answer[0], choice.weight)

    def forward(self, features: Sequence[Tensor], loss: Callable[[Tensor], Tensor]) -> Tensor:
        """A scalar: the mean of `loss`, of outputs (N, ...), over the points' `features` (N, ...), weighted."""
        losses = [loss(head(made)) for head, made in zip(self.heads, features, strict=True)]
        return self._weight * torch.stack(losses).mean()


class _Head(nn.Module):
    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width)
        self.linear = nn.Linear(width, outputs)

    def forward(self, made: Tensor) -> Tensor:
        by_place = channels_last(made).float().flatten(1, -2)  # (N, positions, channels)
        normalized = functional.relu(self.norm(by_place.flatten(0, 1))).view_as(by_place)
        outputs: Tensor = self.linear(normalized.mean(1))
        return outputs


def points_of(
    network: nn.Module, input_shape: tuple[int, ...], answer: tuple[int, ...], choice: Auxiliary
) -> dict[str, tuple[int, ...]]:
    """Where the classifiers are: paths of modules, and the shapes (without batch) of what these make.

    Those that `choice` names, or the last of each size of maps but the last size, which the network's own end reads.
    Raises UserError for a network that says more of an example than one row, and where there is no such map.
    """
    if len(answer) != 1:
        raise UserError(
            f"auxiliary: its classifiers say one row of numbers of an example, and the network says {answer}; set it "
            "to null"
        )
    shapes = shapes_made(network, input_shape)
    if choice.points is not None:
        wrong = [path for path in choice.points if path not in shapes]
        if wrong:
            possible = ", ".join(shapes) or "none"
            raise UserError(f"auxiliary.points: {', '.join(wrong)}: no module that makes maps; possible: {possible}")
        return {path: shapes[path] for path in choice.points}
    last: dict[tuple[int, ...], str] = {}
    for path, shape in shapes.items():
        last.pop(positions(shape), None)  # maps may shrink and grow again: in the order of the last ones
        last[positions(shape)] = path
    points = list(last.values())[:-1]
    if not points:
        raise UserError(
            "auxiliary: the network makes maps of one size only; name modules in points "
            f"({', '.join(shapes) or 'there are none'}), or set auxiliary to null"
        )
    return {path: shapes[path] for path in points}
