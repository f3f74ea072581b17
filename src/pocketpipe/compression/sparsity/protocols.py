"""How many weights each layer keeps: rules that look at shapes, and rules that look at the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import floor, inf, prod
from typing import Literal

import torch
from torch import Tensor

from pocketpipe.compression.sparsity.patterns import ROUNDING, largest

Shapes = Mapping[str, tuple[int, ...]]
Protocol = Literal["uniform", "erk", "global", "lamp", "given"]


def total_kept(shapes: Shapes, density: float) -> int:
    """Weights that all layers together keep: density * all, to the nearest; at least one a layer."""
    return max(len(shapes), int(density * sum(map(prod, shapes.values())) + 0.5 + ROUNDING))


def uniform(shapes: Shapes, density: float) -> dict[str, int]:
    """The same share in each layer, up to one weight, so that the total is exact."""
    quotas = {name: density * prod(shape) for name, shape in shapes.items()}
    return _apportioned(shapes, quotas, total_kept(shapes, density))


def erdos_renyi_kernel(shapes: Shapes, density: float) -> dict[str, int]:
    """Density in proportion to sum(shape) / prod(shape) (Evci et al. 2020, section 3.1 and appendix): small layers
    stay dense. Layers that would get more than all their weights keep all, and the others share what that leaves."""
    raw = {name: sum(shape) / prod(shape) for name, shape in shapes.items()}
    whole: set[str] = set()
    while True:
        scaled = [name for name in shapes if name not in whole]
        left = density * sum(map(prod, shapes.values())) - sum(prod(shapes[name]) for name in whole)
        factor = left / sum(sum(shapes[name]) for name in scaled) if scaled else 0.0
        over = {name for name in scaled if factor * raw[name] > 1.0}
        if not over:
            break
        highest = max(raw[name] for name in over)
        whole |= {name for name in over if raw[name] == highest}
    quotas = {name: prod(shape) * (1.0 if name in whole else factor * raw[name]) for name, shape in shapes.items()}
    return _apportioned(shapes, quotas, total_kept(shapes, density))


def global_magnitude(weights: Mapping[str, Tensor], density: float) -> dict[str, int]:
    """The largest magnitudes of all layers together; the largest of each layer stays in any case."""
    return _highest(weights, lambda magnitudes: magnitudes, density)


def lamp(weights: Mapping[str, Tensor], density: float) -> dict[str, int]:
    """Layer-adaptive magnitude (Lee et al. 2021, section 3): w^2 over the sum of the squares of all weights of its
    layer that are not smaller; the highest scores of all layers together stay."""
    return _highest(weights, _lamp_scores, density)


BY_SHAPES: dict[Protocol, Callable[[Shapes, float], dict[str, int]]] = {"uniform": uniform, "erk": erdos_renyi_kernel}
BY_WEIGHTS: dict[Protocol, Callable[[Mapping[str, Tensor], float], dict[str, int]]] = {
    "global": global_magnitude,
    "lamp": lamp,
}


def _lamp_scores(magnitudes: Tensor) -> Tensor:
    squares, order = torch.sort(magnitudes.square(), stable=True)
    not_smaller = squares.flip(0).cumsum(0).flip(0)
    scores = torch.where(squares > 0, squares / not_smaller, 0.0)
    return torch.empty_like(scores).scatter_(0, order, scores)


def _highest(weights: Mapping[str, Tensor], score: Callable[[Tensor], Tensor], density: float) -> dict[str, int]:
    scores = [score(weight.detach().double().abs().flatten().cpu()) for weight in weights.values()]
    for each in scores:
        each[each.argmax()] = inf
    kept = largest(torch.cat(scores), total_kept({name: tuple(w.shape) for name, w in weights.items()}, density))
    by_layer = torch.split(kept, [len(each) for each in scores])
    return {name: int(part.sum()) for name, part in zip(weights, by_layer, strict=True)}


def _apportioned(shapes: Shapes, quotas: Mapping[str, float], total: int) -> dict[str, int]:
    """Whole numbers next to `quotas` that add up to `total` (largest remainders), from 1 to all weights of a layer."""
    counts = {name: min(prod(shapes[name]), max(1, floor(quota + ROUNDING))) for name, quota in quotas.items()}
    while (missing := total - sum(counts.values())) != 0:
        sign = 1 if missing > 0 else -1
        open_ones = [name for name in counts if 1 <= counts[name] + sign <= prod(shapes[name])]
        first = sorted(open_ones, key=lambda name: sign * (counts[name] - quotas[name]))
        for name in first[: min(len(first), abs(missing))]:
            counts[name] += sign
    return counts
