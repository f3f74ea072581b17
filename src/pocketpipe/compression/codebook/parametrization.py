"""A codebook on a weight, as a parametrization (see `pocketpipe.compression.weights`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from pocketpipe.compression.codebook.kmeans import Initialization, assign, kmeans, updated
from pocketpipe.compression.during import Renewed

Tuned = Literal["centroids", "weights", "none"]
Grid = Literal["float", "int8"]

LARGEST_INTEGER = 127
SETTLED = 0.75
"""Share of the training after which weights keep their centroids for good, and only the centroids are trained."""
RENEWALS = 100
"""How often weights choose their centroids anew until then, at equal distances."""


@dataclass(frozen=True)
class Form:
    """What a codebook on a layer is like, whatever the weights are."""

    bits: int
    by_row: bool = False
    """Whether each position of the weight's first axis has a table of its own, or one serves the layer."""
    zero: bool = False
    """Whether index 0 stands for zero, as masks below need it: the table has one centroid less."""
    grid: Grid = "float"
    tuned: Tuned = "centroids"

    @property
    def centroids(self) -> int:
        """Centroids of a table that can move."""
        return (1 << self.bits) - self.zero

    def rows(self, weight: NDArray[np.float64]) -> NDArray[np.float64]:
        """The weight as (tables, weights that share it)."""
        return weight.reshape(len(weight) if self.by_row else 1, -1)


class Codebook(Renewed):
    """Each weight is one of few values: `values[indices]`.

    `centroids` is what is trained. Its gradient is the mean of its members' gradients: a step of SGD on the weights,
    projected onto weights that share values. (The plain derivative is their sum, as in Han et al. 2016, section 3.3;
    it needs a rate that is smaller by as many times as a centroid has members.)
    On the int8 grid values are integers times `grid_scale`, one scale a layer; rounding passes gradients through.
    """

    replaces_weight = True
    """For `tracing`: the weight beneath is not what the result is computed from."""
    indices: Tensor
    grid_scale: Tensor | None

    def __init__(self, weight: Tensor, form: Form, initialization: Initialization = "linear", seed: int = 0) -> None:
        """k-means of `weight`."""
        super().__init__()
        self.form = form
        numbers = weight.detach().double().cpu().numpy()
        tables = np.stack([kmeans(row, form.centroids, initialization, seed) for row in self._clustered(numbers)])
        device = weight.device
        self.centroids = nn.Parameter(torch.tensor(tables.reshape(-1), dtype=torch.float32, device=device))
        self.centroids.requires_grad_(form.tuned != "none")
        scale = torch.tensor(_grid_scale(tables), dtype=torch.float32, device=device)
        self.register_buffer("grid_scale", scale if form.grid == "int8" else None)
        self.register_buffer("indices", torch.from_numpy(self._assigned(numbers)).to(device))

    def forward(self, weight: Tensor) -> Tensor:
        """Values of the weight's shape. While weights are tuned, gradients pass through to them as well."""
        table = self._values().unsqueeze(1)
        shared = functional.embedding(self._places(), table, scale_grad_by_freq=True).squeeze(-1)
        if self.form.tuned == "weights":
            shared = shared + (weight - weight.detach())
        return shared.view(self.indices.shape)

    def values(self) -> Tensor:
        """(tables, 2 ** bits) what indices stand for; on the int8 grid integers times the scale, exactly."""
        return self._values().detach().view(-1, 2**self.form.bits)

    def rounding(self) -> Callable[[Tensor], Tensor]:
        """Rows (out, n) of a weight, in doubles -> each element the nearest value of its table; zero is a mask's.

        Of the tables as they are now, for many calls.
        """
        tables = self.values().double()[:, int(self.form.zero) :].contiguous()
        midpoints = (tables[:, 1:] + tables[:, :-1]) / 2

        def nearest(weight: Tensor) -> Tensor:
            rows = weight.reshape(len(tables), -1).contiguous()
            return tables.gather(1, torch.searchsorted(midpoints, rows)).view_as(weight)

        return nearest

    @torch.no_grad()
    def choose(self, weight: Tensor) -> None:
        """Give each weight the nearest value; those of 0 the mask's, if there is one."""
        self.indices.copy_(torch.from_numpy(self._assigned(weight.double().cpu().numpy())))

    @torch.no_grad()
    def follow(self, progress: float, weight: Tensor) -> None:
        """Where weights are tuned: let them choose the nearest centroid, and move centroids to their means.

        Centroids are kept on the grid: beyond its ends a step changes nothing, and the way back would be the longer.
        """
        if self.grid_scale is not None:
            end = LARGEST_INTEGER * float(self.grid_scale)
            self.centroids.clamp_(-end, end)
        if self.form.tuned != "weights":
            return
        due = min(int(progress / SETTLED * RENEWALS), RENEWALS)
        if self.is_due(due):
            self._renew(weight)
        elif self.form.zero and due == RENEWALS:  # a mask beneath may still be closing
            self.indices.masked_fill_(weight == 0, 0)

    def _renew(self, weight: Tensor) -> None:
        numbers = weight.detach().double().cpu().numpy()
        tables = self.centroids.detach().double().cpu().numpy().reshape(-1, self.form.centroids)
        moved = [updated(row, table) for row, table in zip(self._clustered(numbers), tables, strict=True)]
        self.centroids.copy_(torch.from_numpy(np.concatenate(moved)))
        if self.grid_scale is not None:
            self.grid_scale.fill_(_grid_scale(np.concatenate(moved)))
        self.indices.copy_(torch.from_numpy(self._assigned(numbers)))

    def _clustered(self, weight: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """The weights that share a table, table by table; without zeros where those have an index of their own."""
        return [row[row != 0] if self.form.zero else row for row in self.form.rows(weight)]

    def _assigned(self, weight: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Indices of the nearest values, which ascend: k-means has just made them."""
        rows, tables = self.form.rows(weight), self.values().double().cpu().numpy()
        tables = tables[:, 1:] if self.form.zero else tables
        chosen = np.stack([assign(row, table) for row, table in zip(rows, tables, strict=True)])
        if self.form.zero:
            chosen = np.where(rows == 0, 0, chosen + 1).astype(np.uint8)
        return chosen.reshape(weight.shape)

    def _values(self) -> Tensor:
        """(tables * 2 ** bits,) what all indices stand for, with gradients."""
        centroids: Tensor = self.centroids
        if self.grid_scale is not None:
            integers = (centroids / self.grid_scale).round().clamp(-LARGEST_INTEGER, LARGEST_INTEGER)
            centroids = (integers * self.grid_scale).detach() + (centroids - centroids.detach())
        tables = centroids.view(-1, self.form.centroids)
        if self.form.zero:
            tables = functional.pad(tables, (1, 0))
        return tables.reshape(-1)

    def _places(self) -> Tensor:
        """Where in `_values` each weight's value is."""
        places = self.indices.int()
        if not self.form.by_row:
            return places
        first = torch.arange(len(places), dtype=torch.int32, device=places.device) << self.form.bits
        return places + first.view(-1, *(1,) * (places.ndim - 1))

    def extra_repr(self) -> str:
        """The form."""
        return repr(self.form)


def _grid_scale(tables: NDArray[np.float64]) -> float:
    """Of the int8 grid: the largest value is its end. 1 integer for zeros alone, as a bias is counted in its steps."""
    return float(np.abs(tables).max()) / LARGEST_INTEGER or 1 / LARGEST_INTEGER


@torch.no_grad()
def shared_weights(network: nn.Module) -> dict[str, NDArray[np.float32]]:
    """The weights with codebooks on them, as computed with, by the name of their parameter."""
    return {
        f"{path}.{name}" if path else name: getattr(module, name).float().cpu().numpy()
        for path, module in network.named_modules()
        if parametrize.is_parametrized(module)
        for name, laid in dict(module.parametrizations).items()  # type: ignore[arg-type]
        if any(isinstance(each, Codebook) for each in laid)
    }
