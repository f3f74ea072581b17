"""Labels: one integer for each index of each weight axis, and which of them can only be removed together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

FIXED = -1
"""A position that no weight axis makes: it stays whatever is removed."""

Place = tuple[str, int]
"""A weight axis: (name of the parameter or buffer, dimension)."""


@dataclass(frozen=True)
class Atom:
    """Positions that are removed together, or not at all."""

    places: dict[Place, tuple[int, ...]]
    label: int
    """Smallest of its labels; says how `Labels.atoms` and `Labels.roots` belong together."""
    frozen: bool
    reason: str | None
    """Why it must stay; None and frozen = it is the network's own output, and no one needs to be told."""


@dataclass
class Labels:
    """Hands out labels, remembers which are tied and which must stay.

    >>> labels = Labels()
    >>> rows, columns = labels.of(("a", 0), 2), labels.of(("b", 1), 2)
    >>> labels.tie(rows, columns, "example")
    >>> [atom.places for atom in labels.atoms()]
    [{('a', 0): (0,), ('b', 1): (0,)}, {('a', 0): (1,), ('b', 1): (1,)}]
    """

    _axes: dict[Place, Tensor] = field(default_factory=dict)
    _count: int = 0
    _ties: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    _frozen: list[tuple[Tensor, str | None]] = field(default_factory=list)
    binding: bool = True
    """Whether labels can be frozen now: not by code whose result nothing reads."""

    def of(self, place: Place, size: int) -> Tensor:
        """Labels (size,) of a weight axis: the same at every call."""
        if place not in self._axes:
            self._axes[place] = self.fresh(size)
        return self._axes[place]

    def fresh(self, size: int) -> Tensor:
        """New labels (size,) that belong to no weight."""
        self._count += size
        return torch.arange(self._count - size, self._count)

    def tie(self, one: Tensor, other: Tensor, reason: str | None) -> None:
        """Position i of both goes together; a label that meets a fixed position must stay, for `reason`."""
        both = (one >= 0) & (other >= 0)
        self._ties.append((one[both], other[both]))
        self.freeze(torch.maximum(one, other)[~both], reason)

    def tie_rows(self, rows: Tensor, reason: str | None) -> Tensor:
        """Position i of all `rows` (count, length) goes together; returns labels (length,) that stand for them."""
        first = rows[0]
        for row in rows[1:]:
            self.tie(first, row, reason)
        return first

    def freeze(self, labels: Tensor, reason: str | None) -> None:
        """These labels must stay."""
        if self.binding and (kept := labels[labels >= 0]).numel():
            self._frozen.append((kept, reason))

    def all_frozen(self, labels: Tensor) -> bool:
        """Whether all these labels were themselves said to stay; what they are tied to is not looked at."""
        frozen = torch.cat([kept for kept, _ in self._frozen] or [labels[:0]])
        return bool(torch.isin(labels[labels >= 0], frozen).all())

    def roots(self) -> np.ndarray:
        """For each label the smallest label that it is tied to, through any number of others."""
        root = np.arange(self._count)
        if not self._ties:
            return root
        one = torch.cat([pair[0] for pair in self._ties]).numpy()
        other = torch.cat([pair[1] for pair in self._ties]).numpy()
        while (root[one] != root[other]).any():
            smaller = np.minimum(root[one], root[other])
            np.minimum.at(root, root[one], smaller)
            np.minimum.at(root, root[other], smaller)
            while (root[root] != root).any():
                root = root[root]
        return root

    def atoms(self) -> Iterator[Atom]:
        """All atoms that have a weight, in the order in which their first axis was met."""
        root = self.roots()
        reasons = self._reasons(root)
        places: dict[int, dict[Place, list[int]]] = {}
        for place, labels in self._axes.items():
            for index, label in enumerate(root[labels.numpy()].tolist()):
                places.setdefault(label, {}).setdefault(place, []).append(index)
        for label, found in places.items():
            as_tuples = {place: tuple(indices) for place, indices in found.items()}
            yield Atom(as_tuples, label, label in reasons, reasons.get(label))

    def _reasons(self, root: np.ndarray) -> dict[int, str | None]:
        """For each frozen root its first reason that a person should know, if there is one."""
        reasons: dict[int, str | None] = {}
        for labels, reason in self._frozen:
            for label in np.unique(root[labels.numpy()]).tolist():
                if reasons.get(label) is None:
                    reasons[label] = reason
        return reasons


def repeated(labels: Tensor, shape: Sequence[int], dim: int) -> Tensor:
    """Labels (shape[dim],) as a tensor of `shape` that is constant along every other dimension, without copying."""
    view = [1] * len(shape)
    view[dim] = len(labels)
    return labels.view(view).expand(*shape)
