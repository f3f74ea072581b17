"""Cross-layer equalization: what one layer's channels have too much of range, the next layer takes over.

Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", arXiv 1906.04721,
section 4.1: f(s x) = s f(x) for positive s lets a factor for each channel wander from one weight to the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from pocketpipe.compression.quantization.homogeneous import Carried, carried_through, made_by, read_along
from pocketpipe.compression.quantization.reading import Call, Reading, follows_scaling, read
from pocketpipe.compression.weights import along, original_of, set_weight, weight_of

NEGLIGIBLE = 1e-4
"""Channels below this share of the largest range on their side are left alone: dead ones, whose bias would explode."""

SWEEPS = 100
"""At most so many times through all pairs."""

CONVERGED = 1e-3
"""Done when no factor of a sweep is farther than this from 1."""


@dataclass(frozen=True)
class Side:
    """A layer whose weight has along `axis` `repeat` positions in a row for each channel of a tensor."""

    layer: str
    axis: int
    repeat: int = 1

    def ranges(self, network: nn.Module) -> Tensor:
        """(channels,) the largest magnitude of the weights of each channel."""
        rows = weight_of(network, self.layer).movedim(self.axis, 0)
        largest: Tensor = rows.reshape(len(rows) // self.repeat, -1).abs().amax(1)
        return largest

    def scale(self, network: nn.Module, factors: Tensor) -> None:
        """Multiply the weights of each channel by its element of `factors` (channels,)."""
        original = original_of(network, self.layer)
        each = factors.repeat_interleave(self.repeat)
        set_weight(network, self.layer, original * along(each, self.axis, original.dim()))


@dataclass(frozen=True)
class Link:
    """A tensor between layers: who makes it, and who reads it, through nothing but scalable operators."""

    producer: Side
    bias: str | None
    readers: tuple[Side, ...]


def links(network: nn.Module, input_shape: tuple[int, ...]) -> tuple[Link, ...]:
    """What can be equalized, in order of execution.

    A pair is left out if anything but layers reads the tensor (an addition, the output), if something between is not
    positively homogeneous (ReLU6 and other clipping, sigmoid, GELU, BatchNorm that is not folded), if a weight is
    used twice, or if a codebook lies on it. Raises UserError for a network without a static graph.
    """
    reading = read(network, input_shape)
    found = (_link(reading, call) for call in reading.calls.values())
    return tuple(
        link
        for link in found
        if link and all(follows_scaling(network, side.layer) for side in (link.producer, *link.readers))
    )


def _link(reading: Reading, call: Call) -> Link | None:
    if call.transposed and call.groups > 1:
        return None  # its output channels do not lie along one axis
    readers = _readers(reading, call.node, made_by(call))
    return Link(Side(call.layer, int(call.transposed)), call.bias, readers) if readers else None


def _readers(reading: Reading, node: fx.Node, carried: Carried) -> tuple[Side, ...] | None:
    """All that read the channels of `node`; None if any of them cannot take factors."""
    readers: tuple[Side, ...] = ()
    for user in node.users:
        if user in reading.calls:
            found = _reader(reading.calls[user], node, carried)
        else:
            through = carried_through(user, node, carried)
            found = _readers(reading, user, through) if through else None
        if found is None:
            return None
        readers += found
    return readers


def _reader(call: Call, source: fx.Node, carried: Carried) -> tuple[Side, ...] | None:
    place = read_along(call, source, carried)
    return (Side(call.layer, *place),) if place else None


@torch.no_grad()
def equalize(network: nn.Module, input_shape: tuple[int, ...]) -> None:
    """Equalize all `links` of a network whose BatchNorm is folded, in place, until nothing changes any more.

    Each producer's output range r1 and its readers' input range r2 meet at sqrt(r1 r2) (equation 11). The network
    computes what it did, up to rounding; masked weights stay zero. Channels with (nearly) no weight on one side
    are left alone. Raises UserError for a network without a static graph.
    """
    found = links(network, input_shape)
    for _ in range(SWEEPS):
        if max((_equalize(network, link) for link in found), default=0.0) < CONVERGED:
            return


def _equalize(network: nn.Module, link: Link) -> float:
    """Equalize one tensor; returns the largest distance of a factor from 1."""
    made = link.producer.ranges(network)
    taken = torch.stack([reader.ranges(network) for reader in link.readers]).amax(0)
    alive = (made > NEGLIGIBLE * made.max()) & (taken > NEGLIGIBLE * taken.max())
    factors = torch.where(alive, (made / taken).sqrt(), 1.0)
    link.producer.scale(network, 1 / factors)
    if link.bias is not None:
        network.get_parameter(link.bias).div_(factors)
    for reader in link.readers:
        reader.scale(network, factors)
    return float((factors - 1).abs().max())
