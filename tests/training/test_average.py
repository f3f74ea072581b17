"""The moving average against its formula."""

import copy

import torch
from torch import nn

from pocketpipe.training.average import WeightAverage


def test_the_average_follows_the_formula() -> None:
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    average = WeightAverage(network, 0.9)
    expected = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    for step in range(200):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator))
        network(torch.randn(4, 3, generator=generator))  # moves the running statistics
        average.update(network, step)
        decay = min(0.9, (1 + step) / (10 + step))
        for name, tensor in network.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * tensor if tensor.is_floating_point() else tensor
    for name, tensor in average.network.state_dict().items():
        assert torch.allclose(tensor, expected[name], atol=1e-5), name
    assert average.network.state_dict()["1.num_batches_tracked"] == 200
    assert not any(parameter.requires_grad for parameter in average.network.parameters())


def test_the_network_itself_is_not_touched() -> None:
    network = nn.Linear(2, 2)
    before = copy.deepcopy(network.state_dict())
    WeightAverage(network, 0.5).update(nn.Linear(2, 2), 0)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
