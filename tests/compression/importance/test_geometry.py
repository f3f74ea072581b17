"""FPGM against its formula, written out."""

from __future__ import annotations

import torch
from torch import nn

from compression.zoo import trained_looking
from pocketpipe.compression.importance.geometry import distances
from pocketpipe.compression.tracing import trace


def test_it_is_the_sum_of_distances_to_all_other_filters() -> None:
    network = trained_looking(nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 3, 1), nn.Flatten()))
    (group,) = (group for group in trace(network, (2, 5, 5)).groups if group.name == "0")
    filters = network[0].weight.detach().double()
    sums = torch.tensor([sum(float((one - other).square().sum().sqrt()) for other in filters) for one in filters])
    assert torch.allclose(distances(network, group), (sums / sums.mean()).double())


class Added(nn.Module):
    """Two layers that make the same channels."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.head = nn.Linear(4, 5), nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head((self.one(x) + self.other(x)).relu())


def test_layers_that_make_a_group_count_alike() -> None:
    network = trained_looking(Added())
    with torch.no_grad():
        network.other.weight *= 100
    (group,) = (group for group in trace(network, (4,)).groups if group.slimmable)
    expected = torch.zeros(5, dtype=torch.float64)
    for layer in (network.one, network.other):
        sums = torch.cdist(layer.weight.double(), layer.weight.double()).sum(1)
        expected += (sums / sums.mean()).detach()
    assert torch.allclose(distances(network, group), expected, rtol=1e-5)


def test_a_filter_that_others_surround_goes_first() -> None:
    """The norm keeps the largest filter; the median does not care how large it is."""
    network = nn.Sequential(nn.Linear(2, 5, bias=False), nn.ReLU(), nn.Linear(5, 1))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[9.0, 9], [10, 9], [9, 10], [8, 9], [9, 8]]))
    (group,) = (group for group in trace(network, (2,)).groups if group.slimmable)
    assert int(distances(network, group).argmin()) == 0
