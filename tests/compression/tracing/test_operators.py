"""Operators that stand between two layers: the channels go through them, and the slim network is the masked one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pocketpipe.compression.slimming import masked, slim
from pocketpipe.compression.tracing import trace

IMAGE, VOLUME = (3, 6, 6), (3, 4, 4, 4)


class Between(nn.Module):
    """A convolution of eight channels, a function, and a convolution that reads them."""

    def __init__(self, function: Callable[[Tensor], Tensor], dims: int = 2) -> None:
        super().__init__()
        kind = nn.Conv2d if dims == 2 else nn.Conv3d
        self.function = function
        self.first, self.second = kind(3, 8, 3, padding=1), kind(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.second(self.function(self.first(x)))
        return result


def thinned(network: nn.Module, shape: tuple[int, ...], widths: dict[str, int]) -> None:
    """The groups are these, and without a third of their channels the network computes what the masked one does."""
    torch.manual_seed(0)
    traced = trace(network.eval(), shape)
    groups = [group for group in traced.groups if group.slimmable]
    assert {group.name: group.channels for group in groups} == widths, [group.reason for group in traced.groups]
    kept = {group.name: [i for i in range(group.channels) if i % 3] for group in groups}
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = masked(network, traced, kept)(x.clone())
        found = slim(network, traced, kept)(x.clone())
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize(
    "function",
    [
        nn.Mish(inplace=True),
        nn.RReLU(inplace=True),
        nn.Threshold(0.1, 0.0, inplace=True),
        lambda x: x * functional.relu6(x + 3, inplace=True) / 6,
        nn.AlphaDropout(),
        nn.FeatureAlphaDropout(),
        lambda x: torch.where(x > 0, x, 0.0),
        lambda x: torch.multiply(x, torch.sigmoid(x)),
        lambda x: torch.divide(torch.subtract(x, torch.absolute(x)), 2.0),
        lambda x: torch.negative(x).abs_(),
        lambda x: x.masked_fill(x < 0, torch.tensor(0.0)),
        lambda x: torch.moveaxis(torch.moveaxis(x, 1, 3), 3, 1),
        lambda x: torch.swapdims(x, 2, 3),
        lambda x: functional.interpolate(x, scale_factor=2.0, mode="nearest-exact"),
        lambda x: functional.interpolate(x, scale_factor=2.0, mode="bilinear", antialias=True),
    ],
)
def test_channels_go_through(function: Callable[[Tensor], Tensor]) -> None:
    thinned(Between(function), IMAGE, {"first": 8})


def test_channels_of_volumes_go_through_resampling() -> None:
    network = Between(lambda x: functional.interpolate(x, scale_factor=2.0, mode="trilinear"), dims=3)
    thinned(network, VOLUME, {"first": 8})


class Joined(nn.Module):
    """`torch.concatenate` is `torch.cat`."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.after = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 6, 1), nn.Conv2d(10, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.after(torch.concatenate([self.one(x), self.two(x)], 1))
        return result


def test_concatenate_is_cat() -> None:
    thinned(Joined(), IMAGE, {"one": 4, "two": 6})


def test_a_decoder_that_unflattens_is_thinned() -> None:
    """The linear layer is most of it: whole channels of what it makes go."""
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(108, 8 * 4 * 4), nn.ReLU(), nn.Unflatten(1, (8, 4, 4)), nn.ConvTranspose2d(8, 2, 2, 2)
    )
    thinned(network, IMAGE, {"1": 8})


def test_pixels_of_one_channel_are_made_of_all() -> None:
    """Super-resolution of a grey image: what makes the pixels stays, what comes before can go."""
    network = nn.Sequential(nn.Conv2d(3, 9, 3, padding=1), nn.ReLU(), nn.Conv2d(9, 4, 3, padding=1), nn.PixelShuffle(2))
    thinned(network, IMAGE, {"0": 9})


class InPlace(nn.Module):
    """Prepares its input where it lies."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        x.sub_(0.5).div_(0.25)
        result: Tensor = self.net(x)
        return result


def test_a_forward_may_change_its_input() -> None:
    thinned(InPlace(), IMAGE, {"net.0": 6})
