"""Initial weights of the zoo's convolutional networks."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def initialize(network: Network) -> Network:
    """Convolutions drawn as in He et al. 2015 (normal, by fan-out, for ReLU), their biases 0; the rest as torch has it.

    Draws from torch's global generator, which whoever builds a network to train it seeds. Returns `network`.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network
