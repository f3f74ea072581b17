"""Protocols, patterns and the schedule, each against its formula or all possibilities."""

from __future__ import annotations

from itertools import combinations
from math import prod

import numpy as np
import pytest
import torch
from torch import Tensor

from pocketpipe.compression.sparsity.patterns import NOfM, Unstructured, parse_n_of_m
from pocketpipe.compression.sparsity.protocols import (
    erdos_renyi_kernel,
    global_magnitude,
    lamp,
    total_kept,
    uniform,
)
from pocketpipe.compression.sparsity.schedule import CubicSchedule
from pocketpipe.profile import exact_share

SHAPES = {
    "stem": (16, 3, 3, 3),
    "depthwise": (16, 1, 3, 3),
    "middle": (32, 16, 3, 3),
    "wide": (64, 32, 3, 3),
    "head": (10, 64),
}
DENSITIES = (0.005, 0.02, 0.1, 0.25, 0.5, 0.9, 1.0)


def _weights(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator) * (1 + i / 8) for i, (name, shape) in enumerate(SHAPES.items())
    }


@pytest.mark.parametrize("density", DENSITIES)
def test_every_protocol_keeps_the_same_total(density: float) -> None:
    wanted = round(density * sum(map(prod, SHAPES.values())))
    by_rule = [uniform(SHAPES, density), erdos_renyi_kernel(SHAPES, density)]
    by_weight = [global_magnitude(_weights(), density), lamp(_weights(), density)]
    for counts in by_rule + by_weight:
        assert sum(counts.values()) == wanted == total_kept(SHAPES, density)
        assert all(1 <= count <= prod(SHAPES[name]) for name, count in counts.items())


@pytest.mark.parametrize("density", DENSITIES)
def test_uniform_is_the_same_share_up_to_one_weight(density: float) -> None:
    for name, count in uniform(SHAPES, density).items():
        assert abs(count - max(1, density * prod(SHAPES[name]))) <= 1


def test_less_than_one_weight_a_layer_leaves_one() -> None:
    assert uniform({"a": (10, 10), "b": (2, 2), "c": (3, 3)}, 0.03) == {"a": 1, "b": 1, "c": 1}
    assert global_magnitude({"a": torch.ones(50, 50), "b": torch.full((2, 2), 1e-9)}, 0.002) == {"a": 4, "b": 1}


@pytest.mark.parametrize("density", [0.02, 0.1, 0.3, 0.6, 0.9])
def test_erk_is_evcis_formula(density: float) -> None:
    """Densities proportional to sum / prod of the shape, capped at 1; the factor by bisection here."""
    low, high = 0.0, 1e6
    for _ in range(200):
        factor = (low + high) / 2
        total = sum(prod(s) * min(1.0, factor * sum(s) / prod(s)) for s in SHAPES.values())
        low, high = (factor, high) if total < density * sum(map(prod, SHAPES.values())) else (low, factor)
    for name, count in erdos_renyi_kernel(SHAPES, density).items():
        shape = SHAPES[name]
        assert abs(count - prod(shape) * min(1.0, low * sum(shape) / prod(shape))) <= 1


def test_erk_by_hand() -> None:
    """sum/prod: 20/100 and 4/4; at half density the second would get 52 * 4 / 24 = 8.7 of its 4 weights: all stay."""
    assert erdos_renyi_kernel({"a": (10, 10), "b": (2, 2)}, 0.5) == {"a": 48, "b": 4}


@pytest.mark.parametrize("density", [0.02, 0.1, 0.5, 0.9])
def test_global_keeps_the_largest_of_all(density: float) -> None:
    weights = _weights()
    magnitudes = np.concatenate([w.abs().numpy().ravel() for w in weights.values()])
    threshold = np.sort(magnitudes)[::-1][total_kept(SHAPES, density) - 1]
    expected = {name: int((w.abs().numpy() >= threshold).sum()) for name, w in weights.items()}
    assert global_magnitude(weights, density) == expected


@pytest.mark.parametrize("density", [0.1, 0.4, 0.8])
def test_lamp_by_its_definition(density: float) -> None:
    """Score of u = w_u^2 / sum of w_v^2 over the v of its layer that are not smaller (Lee et al. 2021, equation 4)."""
    generator = np.random.default_rng(0)
    layers = {"a": generator.normal(size=(5, 4)), "b": 3 * generator.normal(size=(7, 3)), "c": generator.random((2, 9))}
    scores = [
        (w**2 / sum(v**2 for v in weights.ravel() if abs(v) >= abs(w)), name)
        for name, weights in layers.items()
        for w in weights.ravel()
    ]
    best = sorted(scores, reverse=True)[: round(density * len(scores))]
    expected = {name: sum(owner == name for _, owner in best) for name in layers}
    assert lamp({name: torch.from_numpy(w) for name, w in layers.items()}, density) == expected


def test_lamp_lives_with_a_dead_layer() -> None:
    counts = lamp({"dead": torch.zeros(3, 3), "alive": torch.ones(4, 4)}, 0.5)
    assert counts == {"dead": 1, "alive": 12}


def test_the_rounding_of_one_layer() -> None:
    counts = [Unstructured().kept((10, 10), density) for density in (0.29, 0.294, 0.295, 0.296, 0.0001, 1.0)]
    assert counts == [29, 29, 30, 30, 1, 100]
    for elements in (7, 25, 144, 36864, 2_359_296):
        for count in {1, elements // 3, elements // 2 + 1, elements - 1, elements} - {0}:
            assert Unstructured().kept((elements,), exact_share(count, elements)) == count


@pytest.mark.parametrize("density", [0.1, 0.37, 1.0])
def test_unstructured_keeps_the_largest(density: float) -> None:
    weight = torch.randn(6, 5, 3, 3, generator=torch.Generator().manual_seed(1))
    mask = Unstructured().mask(weight, density)
    kept = Unstructured().kept(tuple(weight.shape), density)
    assert int(mask.sum()) == kept
    assert set(weight.abs()[mask].tolist()) == set(sorted(weight.abs().flatten().tolist())[-kept:])


def test_equal_magnitudes_keep_the_first() -> None:
    many = Unstructured().mask(torch.ones(100, 100), 0.3).flatten()
    assert many[:3000].all()
    assert not many[3000:].any()
    assert Unstructured().mask(torch.tensor([[1.0, -1.0], [1.0, -1.0]]), 0.75).tolist() == [[True, True], [True, False]]
    assert NOfM(1, 2, axis=1).mask(torch.tensor([[1.0, -1.0, -1.0, 1.0]]), 0.5).tolist() == [[True, False, True, False]]


@pytest.mark.parametrize(("n", "m", "axis"), [(2, 4, 1), (1, 4, 1), (3, 5, 1), (2, 4, 0), (1, 2, 0)])
def test_n_of_m_is_the_best_of_all_possibilities(n: int, m: int, axis: int) -> None:
    weight = torch.randn(8, 10, 3, 3, generator=torch.Generator().manual_seed(2))
    pattern = NOfM(n, m, axis)
    mask = pattern.mask(weight, n / m)
    assert int(mask.sum()) == pattern.kept(tuple(weight.shape), n / m)
    lines = weight.abs().movedim(axis, -1).reshape(-1, weight.shape[axis]).numpy()
    masks = mask.movedim(axis, -1).reshape(-1, weight.shape[axis]).numpy()
    for start in range(0, lines.shape[1], m):
        group, chosen = lines[:, start : start + m], masks[:, start : start + m]
        size = group.shape[1]
        kept = -(-size * n // m)  # whole groups: n; the remainder rule: n / m of it, rounded up
        assert (chosen.sum(1) == kept).all()
        best = np.max([group[:, list(choice)].sum(1) for choice in combinations(range(size), kept)], axis=0)
        np.testing.assert_allclose((group * chosen).sum(1), best, rtol=1e-6)


def test_depthwise_axes_stay_dense() -> None:
    assert NOfM(2, 4, axis=1).mask(torch.randn(16, 1, 3, 3), 0.5).all()


def test_n_of_m_on_the_way_keeps_more_of_each_m() -> None:
    weight = torch.randn(4, 8, generator=torch.Generator().manual_seed(3))
    counts = [NOfM(2, 4, axis=1).mask(weight, density).sum().item() for density in (1.0, 0.75, 0.6, 0.5, 0.1)]
    assert counts == [32, 24, 24, 16, 16]


@pytest.mark.parametrize("text", ["unstructed", "4", "0:4", "5:4", "2:", "a:b", "-1:4", "2:4:8"])
def test_a_wrong_pattern_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="is no pattern; use unstructured, or n:m"):
        parse_n_of_m(text)


def test_the_schedule_is_zhu_and_guptas_formula() -> None:
    begin, end, n, final_sparsity = 0.1, 0.7, 12, 0.9
    schedule = CubicSchedule(begin, end, n)
    dt = (end - begin) / n
    for renewal in range(n + 1):
        t = begin + renewal * dt
        sparsity = final_sparsity + (0.0 - final_sparsity) * (1 - (t - begin) / (n * dt)) ** 3
        assert schedule.renewal(t + 1e-9) == renewal
        assert schedule.density(renewal, final=0.1) == pytest.approx(1 - sparsity, abs=1e-12)
    assert [schedule.renewal(t) for t in (0.0, 0.05, 0.7, 0.9, 1.0)] == [0, 0, 12, 12, 12]
    assert schedule.density(n, final=0.1) == 0.1
