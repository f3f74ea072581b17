"""Networks of the zoo as the tests use them: built once, and looking as if they were trained. Not to be changed."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from compression.odd_networks import ODD
from pocketpipe.exporting.onnx import export_onnx
from pocketpipe.network import NETWORKS

DIGIT = (1, 8, 8)
ROWS = (8, 8)
SMALL = (3, 32, 32)
ALL = [(name, ROWS if name == "gru" else DIGIT) for name in NETWORKS.names()]
DEEPER = ("resnet32", "resnet44", "resnet56")
"""Others with more blocks."""
LARGE = ("resnet18", "resnet50")
assert {*DEEPER, *LARGE} <= {*NETWORKS.names()}, "a name that nobody has makes nothing slow"
EACH = [pytest.param(*case, marks=pytest.mark.slow) if case[0] in DEEPER else case for case in ALL]
"""The same for tests of one network each: those that are others with more blocks are slow."""
QUICK_ZOO = [case for case in ALL if case[0] not in (*DEEPER, *LARGE)]
"""For tests to which the others have nothing new."""
WHOLE_ZOO = [*QUICK_ZOO, *(pytest.param(*case, marks=pytest.mark.slow) for case in ALL if case not in QUICK_ZOO)]
"""The same, the others slow."""


@cache
def zoo(name: str, shape: tuple[int, ...]) -> nn.Module:
    """The network with 10 outputs, in eval mode."""
    torch.manual_seed(0)
    return trained_looking(NETWORKS.resolve(name)(shape, 10))


@cache
def exported(name: str, shape: tuple[int, ...]) -> bytes:
    """The ONNX file of `zoo(name, shape)`."""
    return export_onnx(zoo(name, shape), shape)


@cache
def odd(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    """A network of `ODD` in eval mode, and the shape of its input."""
    torch.manual_seed(0)
    factory, shape = ODD[name]
    return trained_looking(factory()), shape


def trained_looking(network: nn.Module) -> nn.Module:
    """Every vector and statistic random, none at its initial zero or one, so that nothing is right by luck."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() < 2:
                parameter.copy_(torch.rand(parameter.shape, generator=generator) + 0.5)
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                module.bias.copy_(torch.randn(module.bias.shape, generator=generator) * 0.3)
                module.running_mean.copy_(torch.randn(module.bias.shape, generator=generator) * 0.3)
                module.running_var.copy_(torch.rand(module.bias.shape, generator=generator) + 0.5)
    return network.eval()
