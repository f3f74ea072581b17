"""One pass of all calibration data: what layers see of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pocketpipe.compression.passing import pass_through


def test_renormalized_layers_see_what_they_will_once_statistics_are_measured_anew() -> None:
    norm, layer = nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1)
    network = nn.Sequential(norm, layer).train()
    assert norm.running_mean is not None
    norm.running_mean.fill_(100.0)
    inputs = 5.0 + torch.randn(64, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    seen: dict[bool, Tensor] = {}
    for renormalized in (False, True):

        def look(module: nn.Module, given: Tensor, output: Tensor, key: bool = renormalized) -> None:
            seen[key] = given

        pass_through(network, [inputs[:32], inputs[32:]], {"1": look}, renormalized=renormalized)
    assert seen[False].mean() < -90
    assert torch.allclose(seen[True].mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(seen[True].var((0, 2, 3), correction=0), torch.ones(3), atol=1e-3)
    assert torch.equal(norm.running_mean, torch.full((3,), 100.0)), "nothing is kept"
    assert norm.training
