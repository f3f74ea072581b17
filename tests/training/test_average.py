"""The moving average against its formula."""

import copy
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pocketpipe.compression.batchnorm import reestimate_on
from pocketpipe.network import StoredNetwork
from pocketpipe.training.average import WeightAverage
from training.samples import RECIPE, Blobs, blobs, train


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


class Closing(nn.Module):
    """A mask, stored as numbers, that closes more of the smallest weights while the training goes on."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("open", torch.ones_like(weight))
        self.register_buffer("times_told", torch.tensor(0))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.open

    def follow(self, progress: float, weight: Tensor) -> None:
        closed = round(progress * weight.numel() / 2)
        order = weight.detach().abs().flatten().argsort()
        self.open.fill_(1.0).view(-1)[order[:closed]] = 0.0
        self.times_told.add_(1)


class Offset(nn.Module):
    """Adds what is left of the training; 0 when delivered."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("left", torch.tensor(0.0))

    def at(self, progress: float) -> None:
        self.left.fill_(1.0 - progress)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.left


def following(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    network = nn.Sequential(
        nn.Conv2d(input_shape[0], 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        Offset(),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 36, outputs),
    )
    parametrize.register_parametrization(network[5], "weight", Closing(network[5].weight))
    return network


def test_masks_are_not_blended_but_taken_from_the_network() -> None:
    network = following((1, 6, 6), 4)
    average = WeightAverage(network, 0.9)
    for step in range(20):
        network[5].parametrizations.weight[0].follow(step / 20, torch.randn(4, 216))
        average.update(network, step)
        own, other = (n[5].parametrizations.weight[0].open for n in (average.network, network))
        assert torch.equal(own, other)


def test_an_average_is_delivered_with_the_schedule_at_its_end(tmp_path: Path) -> None:
    stored = StoredNetwork("training.test_average:following")
    for ema in (None, 0.9):
        recipe = RECIPE.model_copy(update={"ema": ema})
        fitted = train(tmp_path / str(ema), start=stored, recipe=recipe)
        mask = fitted.network.state["5.parametrizations.weight.0.open"]
        assert set(mask.unique().tolist()) == {0.0, 1.0}
        assert mask.mean().item() == 0.5
        assert fitted.network.state["2.left"].item() == 0.0
        assert fitted.network.state["5.parametrizations.weight.0.times_told"] > RECIPE.epochs * 6
        validated = fitted.curves["val_accuracy"][-1]
        network = fitted.network.build(Blobs())
        with torch.no_grad():
            outputs = network(torch.from_numpy(Blobs.preprocessing(blobs("val", 80, 1).inputs)))
        assert Blobs().metric(outputs.numpy(), blobs("val", 80, 1).targets) == validated, "val is of what is delivered"


def test_statistics_are_those_of_the_averaged_weights(tmp_path: Path) -> None:
    averaged = RECIPE.model_copy(update={"ema": 0.9})
    reestimated = averaged.model_copy(update={"ema_statistics": "reestimated"})
    one, other = (train(tmp_path / r.ema_statistics, recipe=r).network for r in (averaged, reestimated))
    again = one.build(Blobs())
    reestimate_on(again, Blobs(), blobs("train", 200, 0))
    for name, tensor in again.state_dict().items():
        assert torch.allclose(tensor.float(), other.state[name].float(), atol=1e-6) or "tracked" in name, name
    assert not torch.allclose(one.state["1.running_var"], other.state["1.running_var"])


def test_integers_among_the_parameters_are_taken_as_they_are() -> None:
    network = nn.Linear(2, 2)
    network.table = nn.Parameter(torch.tensor([1, 2]), requires_grad=False)
    average = WeightAverage(network, 0.5)
    network.table.data += 5
    average.update(network, 3)
    assert average.network.table.tolist() == [6, 7]
