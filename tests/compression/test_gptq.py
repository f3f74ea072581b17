"""GPTQ against least squares solved anew for each input, and all roundings there are."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from pocketpipe.compression.gptq import DAMPING, gptq, round_layers


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def correlated(count: int, width: int) -> Tensor:
    """Inputs (count, 1, width) with which nearest rounding is not the best."""
    return (random(count, width, seed=1).relu() + random(count, 1, seed=2).abs())[:, None]


def halves(values: Tensor) -> Tensor:
    return (2 * values).round() / 2


def error(rounded: Tensor, weight: Tensor, inputs: Tensor) -> Tensor:
    """(out,) squared error of the outputs, damped as the method's own."""
    hessian = hessian_of(inputs)
    change = (rounded - weight).double()
    return torch.einsum("oi,ij,oj->o", change, hessian, change)


def hessian_of(inputs: Tensor) -> Tensor:
    hessian = inputs[:, 0].T @ inputs[:, 0]
    return hessian + DAMPING * hessian.diagonal().mean() * torch.eye(len(hessian), dtype=hessian.dtype)


def solved_anew(weight: Tensor, inputs: Tensor, rounding: Callable[[Tensor], Tensor]) -> Tensor:
    """Input by input: round it; then the best values of all that follow, by the normal equations."""
    hessian = hessian_of(inputs)
    order = hessian.diagonal().argsort(descending=True).tolist()
    current, result = weight.clone(), weight.clone()
    for place, column in enumerate(order):
        result[:, column] = rounding(current[:, column])
        done, rest = order[: place + 1], order[place + 1 :]
        if rest:
            change = (result - weight)[:, done]
            current[:, rest] = weight[:, rest] - change @ hessian[done][:, rest] @ hessian[rest][:, rest].inverse()
    return result


@pytest.mark.parametrize("width", [1, 7, 200], ids=["one input", "a block", "several blocks"])
def test_what_follows_makes_up_for_what_was_rounded_exactly(width: int) -> None:
    weight, inputs = random(5, width), correlated(400, width)
    expected = solved_anew(weight, inputs, halves)
    better = error(expected, weight, inputs) < error(halves(weight), weight, inputs)
    assert width == 1 or better.any()
    torch.testing.assert_close(
        gptq(weight, inputs, halves), torch.where(better[:, None], expected, halves(weight)), rtol=0, atol=1e-9
    )


def test_it_comes_near_the_best_of_all_roundings() -> None:
    weight, inputs = 0.6 * random(40, 6), correlated(300, 6)
    values = torch.tensor(list(product([-1.0, 0.0, 1.0], repeat=6)), dtype=torch.float64)
    best = torch.stack([error(values, row, inputs).min() for row in weight])
    usual = error(weight.round().clamp(-1, 1), weight, inputs)
    found = error(gptq(weight, inputs, lambda each: each.round().clamp(-1, 1)), weight, inputs)
    assert (found <= usual + 1e-9).all()
    assert (found >= best - 1e-9).all()
    assert found.sum() < 0.6 * usual.sum()


def test_what_is_hidden_is_zero_and_made_up_for() -> None:
    weight, inputs = random(4, 12), correlated(300, 12)
    weight[:, ::3] = 0.0
    found = gptq(weight, inputs, lambda each: torch.where(each < 0, -1.0, 1.0), hidden=weight == 0)
    assert (found[:, ::3] == 0).all()
    assert set(found[weight != 0].tolist()) <= {-1.0, 1.0}


def test_each_group_has_inputs_of_its_own() -> None:
    weight, inputs = random(6, 2, 3, 1), torch.cat([correlated(200, 6), correlated(200, 6).flip(2)], 1)
    together = gptq(weight, inputs, halves)
    parts = [gptq(weight[3 * group :][:3], inputs[:, group : group + 1], halves) for group in range(2)]
    torch.testing.assert_close(together, torch.cat(parts))


def test_inputs_that_are_never_there_do_not_matter() -> None:
    weight, inputs = random(3, 5), correlated(100, 5)
    inputs[..., 2] = 0.0
    assert gptq(weight, inputs, halves).isfinite().all()
    assert torch.equal(gptq(weight, torch.zeros_like(inputs), halves), halves(weight))


class Odd(nn.Module):
    """A plain layer, and those of which GPTQ knows nothing: called twice, sharing a weight, transposed, too wide."""

    def __init__(self) -> None:
        super().__init__()
        self.plain, self.twice, self.one, self.other = (nn.Linear(6, 6, dtype=torch.float64) for _ in range(4))
        self.other.weight = self.one.weight
        self.transposed = nn.ConvTranspose1d(6, 6, 1, dtype=torch.float64)
        self.wide = nn.Linear(6, 2, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        x = self.other(self.one(self.twice(self.twice(self.plain(x)))))
        result: Tensor = self.wide(self.transposed(x[..., None])[..., 0])
        return result


def test_what_it_knows_nothing_of_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = Odd()
    monkeypatch.setattr("pocketpipe.compression.gptq.MOST_INPUTS", 6)
    network.wide.weight = nn.Parameter(random(2, 7))
    network.wide.forward = lambda x: x @ network.wide.weight[:, :6].T  # type: ignore[method-assign]
    before = copy.deepcopy(network.state_dict())
    layers = ["plain", "twice", "one", "other", "transposed", "wide"]
    done = round_layers(network, copy.deepcopy(network), [random(40, 6)], dict.fromkeys(layers, halves))
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert (done, changed) == (("plain",), {"plain.weight"})


def test_where_nothing_is_rounded_nothing_runs() -> None:
    assert round_layers(Odd(), Odd(), [torch.full((1, 6), torch.nan)], {}) == ()
