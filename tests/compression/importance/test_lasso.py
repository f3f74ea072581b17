"""LASSO's selection against its definition, and against every subset there is."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from compression.zoo import odd, trained_looking, zoo
from pocketpipe.compression.importance import most_important
from pocketpipe.compression.importance.lasso import _moment, by_lasso, contributions
from pocketpipe.compression.tracing import TracedGroup, trace

SHAPE = (2, 5, 5)
EXAMPLES = torch.randn(50, *SHAPE, generator=torch.Generator().manual_seed(9))


def _chain(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return trained_looking(nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 2), nn.Flatten()))


def _inner(network: nn.Module) -> TracedGroup:
    return next(group for group in trace(network, SHAPE).groups if group.slimmable)


@torch.no_grad()
def _added(network: nn.Sequential, examples: Tensor) -> Tensor:
    """(outputs, channels): what each channel adds to all outputs of the second convolution."""
    inner = network[1](network[0](examples))
    alone = [
        functional.conv2d(inner[:, channel : channel + 1], network[2].weight[:, channel : channel + 1]).flatten()
        for channel in range(6)
    ]
    return torch.stack(alone, 1).double()


def test_moments_are_those_of_what_channels_add() -> None:
    network, examples = _chain(0), EXAMPLES[:7]
    added = _added(network, examples)
    expected = added.T @ added / added.sum(1).square().sum()
    found = contributions(network, [_inner(network)], examples)["0"]
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_they_are_the_same_where_a_layer_reads_far_more_than_it_makes() -> None:
    """Behind a flatten: the products are formed in another order, or their memory would be the square of the inputs."""
    generator = torch.Generator().manual_seed(1)
    rows, weight = (torch.randn(count, 40, generator=generator).double() for count in (3, 2))
    columns = torch.arange(40).view(5, 8)
    assert len(rows) * len(weight) < 8 * 8 * 5
    parts = torch.stack([(rows[:, each] @ weight[:, each].T).flatten() for each in columns])
    many = torch.cat([rows, torch.zeros(300, 40)])
    assert torch.allclose(_moment(rows, weight, columns), parts @ parts.T)
    assert torch.allclose(_moment(many, weight, columns), parts @ parts.T)


def test_all_layers_that_read_count_alike() -> None:
    """In a residual network many layers read one group; the sum of their relative errors is one each."""
    network = zoo("resnet8", (1, 8, 8))
    groups = [group for group in trace(network, (1, 8, 8)).groups if group.name == "conv1"]
    moment = contributions(network, groups, torch.randn(16, 1, 8, 8))["conv1"]
    assert float(moment.sum()) == pytest.approx(4)  # three convolutions and the linear layer


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("count", [2, 3, 4])
def test_the_subset_is_among_the_best(seed: int, count: int) -> None:
    """Least-squares error with the chosen channels, beside that with every subset of the same size."""
    network = _chain(seed)
    examples = torch.randn(50, *SHAPE, generator=torch.Generator().manual_seed(seed))
    added = _added(network, examples)
    wanted = added.sum(1, keepdim=True)

    def error(subset: tuple[int, ...]) -> float:
        own = added[:, list(subset)]
        return float((own @ torch.linalg.lstsq(own, wanted).solution - wanted).square().sum() / wanted.square().sum())

    errors = sorted(error(subset) for subset in combinations(range(6), count))
    chosen = most_important(by_lasso(network, [_inner(network)], examples)["0"], count)
    assert error(chosen) <= errors[len(errors) // 5] + 1e-9  # it may be that very one, solved again
    assert error(chosen) <= errors[0] + 0.1


def test_of_two_equal_channels_one_is_enough() -> None:
    network = _chain(0)
    with torch.no_grad():
        for parameter in (network[0].weight, network[0].bias):
            parameter[3:] = parameter[:3]
        network[2].weight[:, 3:] = network[2].weight[:, :3]
    chosen = most_important(by_lasso(network, [_inner(network)], EXAMPLES)["0"], 3)
    assert sorted(channel % 3 for channel in chosen) == [0, 1, 2]


def test_a_dead_channel_never_enters() -> None:
    network = _chain(0)
    with torch.no_grad():
        network[2].weight[:, 4] = 0
    assert int(by_lasso(network, [_inner(network)], EXAMPLES)["0"].argmin()) == 4


def test_a_group_that_no_plain_layer_reads_is_left_out() -> None:
    """What an LSTM's gates read is no convolution's or linear layer's weight."""
    network, shape = odd("lstm")
    groups = [group for group in trace(network, shape).groups if group.slimmable]
    found = by_lasso(network, groups, torch.randn(4, *shape))
    assert set(found) == {group.name for group in groups} - {"embed"}
