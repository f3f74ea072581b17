"""Cross-layer equalization: the closed formula on one pair, and networks that compute what they did."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from compression.odd_networks import Grouped, Shuffle, Squeeze, Tied
from compression.zoo import DIGIT, trained_looking, zoo
from pocketpipe.compression.quantization.equalization import equalize, links
from pocketpipe.compression.quantization.folding import fold_batchnorm
from pocketpipe.compression.sparsity.mask import Mask
from pocketpipe.compression.weights import lay_on, weight_of
from pocketpipe.network import NETWORKS


def uneven(network: nn.Module) -> nn.Module:
    """With output channels of very different ranges."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() > 1:
                factors = torch.exp2(torch.randint(-3, 4, (len(parameter),), generator=generator).float())
                parameter.mul_(factors.reshape(-1, *(1,) * (parameter.dim() - 1)))
    return network.eval()


def small_mobilenet() -> nn.Module:
    torch.manual_seed(0)
    return trained_looking(NETWORKS.resolve("mobilenet_v1")(DIGIT, 10, width=0.25))


def pairs(network: nn.Module, shape: tuple[int, ...]) -> list[tuple[str, list[str]]]:
    return [(link.producer.layer, [reader.layer for reader in link.readers]) for link in links(network, shape)]


def assert_same_after(network: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    before = copy.deepcopy(network)
    equalize(network, shape)
    x = torch.randn(4, *shape, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected, found = before(x), network(x)
    assert (found - expected).abs().max() <= 1e-5 * max(1.0, float(expected.abs().max()))
    assert any(not torch.equal(a, b) for a, b in zip(before.parameters(), network.parameters(), strict=True))
    return before


def test_one_pair_by_the_closed_formula() -> None:
    first, last = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 4, 1)
    network = uneven(nn.Sequential(first, nn.ReLU(), last))
    r1, r2 = first.weight.abs().amax((1, 2, 3)), last.weight.abs().amax((0, 2, 3))
    factors = (r1 / r2).sqrt()
    expected = first.weight / factors[:, None, None, None], first.bias / factors
    assert_same_after(network, (3, 6, 6))
    assert torch.allclose(first.weight, expected[0], rtol=1e-5)
    assert torch.allclose(first.bias, expected[1], rtol=1e-5)
    met = (r1 * r2).sqrt()
    assert torch.allclose(first.weight.abs().amax((1, 2, 3)), met, rtol=1e-5)
    assert torch.allclose(last.weight.abs().amax((0, 2, 3)), met, rtol=1e-5)


def test_a_chain_converges_everywhere() -> None:
    layers = [
        nn.Linear(4, 6),
        nn.ReLU(),
        nn.Linear(6, 5, bias=False),
        nn.LeakyReLU(0.2),
        nn.Linear(5, 7),
        nn.Linear(7, 3),
    ]
    network = uneven(nn.Sequential(*layers))
    assert_same_after(network, (4,))
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    for before, after in pairwise(linear):
        assert torch.allclose(before.weight.abs().amax(1), after.weight.abs().amax(0), rtol=5e-3)


def test_resnets_are_equalized_inside_their_blocks() -> None:
    network = fold_batchnorm(zoo("resnet8", DIGIT), DIGIT)
    assert pairs(network, DIGIT) == [(f"layer{i}.0.conv1", [f"layer{i}.0.conv2"]) for i in (1, 2, 3)]
    assert_same_after(uneven(network), DIGIT)


def test_depthwise_convolutions_take_and_give() -> None:
    network = fold_batchnorm(small_mobilenet(), DIGIT)
    found = pairs(network, DIGIT)
    assert len(found) == 27  # 1 + 26 convolutions, each read by the next layer
    assert found[0] == ("stem.0", ["blocks.0.0.0"])
    assert found[-1][1] == ["classifier"]
    before = assert_same_after(network, DIGIT)

    def unevenness(of: nn.Module) -> float:
        ranges = weight_of(of, "blocks.3.0.0").detach().abs().amax((1, 2, 3))
        return float(ranges.max() / ranges.min())

    assert unevenness(network) < unevenness(before) / 2


def test_what_clips_or_mixes_is_not_passed() -> None:
    def between(*middle: nn.Module) -> list[tuple[str, list[str]]]:
        return pairs(nn.Sequential(nn.Conv2d(3, 4, 1), *middle, nn.Conv2d(4, 2, 1)).eval(), (3, 4, 4))

    for passed in (
        nn.ReLU(),
        nn.PReLU(4),
        nn.MaxPool2d(2),
        nn.AvgPool2d(2, padding=1),
        nn.ZeroPad2d(1),
        nn.Dropout(),
        nn.Upsample(scale_factor=2),
        nn.AdaptiveAvgPool2d(2),
    ):
        assert between(passed) == [("0", ["2"])], passed
    for stopped in (nn.ReLU6(), nn.Sigmoid(), nn.GELU(), nn.BatchNorm2d(4), nn.ConstantPad2d(1, 0.5), nn.Hardswish()):
        assert between(stopped) == [], stopped


class Branches(nn.Module):
    """Two layers read the first; an addition reads the second as well; the head reads flattened positions."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 1)
        self.left, self.right = nn.Conv2d(4, 3, 3, padding=1), nn.Conv2d(4, 3, 1)
        self.last = nn.Conv2d(3, 5, 1)
        self.head = nn.Linear(5 * 16, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        x = self.left(x) + self.right(x)
        return self.head(functional.relu(self.last(x)).flatten(1))


def test_all_readers_take_the_same_factors() -> None:
    network = uneven(trained_looking(Branches()))
    assert pairs(network, (2, 4, 4)) == [("first", ["left", "right"]), ("last", ["head"])]
    assert_same_after(network, (2, 4, 4))
    taken = torch.maximum(network.left.weight.abs().amax((0, 2, 3)), network.right.weight.abs().amax((0, 2, 3)))
    assert torch.allclose(network.first.weight.abs().amax((1, 2, 3)), taken, rtol=1e-5)
    positions = network.head.weight.reshape(6, 5, 16).abs().amax((0, 2))
    assert torch.allclose(network.last.weight.abs().amax((1, 2, 3)), positions, rtol=1e-5)


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (
            Grouped(),
            [
                ("grouped", ["inner"]),
                ("inner", ["twice"]),
                ("twice", ["transposed"]),
                ("transposed", ["last"]),
                ("last", ["head"]),
            ],
        ),
        (Squeeze(), []),
        (Shuffle(), [("inner", ["outer"]), ("last", ["head"])]),
        (Tied(), []),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_odd_networks(network: nn.Module, expected: list[tuple[str, list[str]]]) -> None:
    shape = (7,) if isinstance(network, Tied) else (3, 8, 8)
    network = uneven(trained_looking(network))
    assert pairs(network, shape) == expected
    if expected:
        assert_same_after(network, shape)


def test_masked_weights_stay_zero_and_dead_channels_are_left_alone() -> None:
    network = uneven(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)))
    mask = torch.rand(8, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    mask[3] = False
    lay_on(network, "0", Mask(mask))
    with torch.no_grad():
        network[2].weight[:, 5] = 1e-9
    bias = network[0].bias.detach().clone()
    assert_same_after(network, (6,))
    assert torch.equal(weight_of(network, "0") != 0, mask)
    assert torch.equal(network[0].bias[[3, 5]], bias[[3, 5]])
    assert not torch.equal(network[0].bias, bias)


def test_codebooks_are_left_alone() -> None:
    class Signs(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return weight.sign()

    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    lay_on(network, "2", Signs())
    assert links(network, (6,)) == ()
