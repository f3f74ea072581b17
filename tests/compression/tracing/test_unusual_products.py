"""Products in unusual spellings: predicted MACs are the file's at every width, or what is unknown is counted whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pocketpipe.compression.channels import ChannelsStep
from pocketpipe.compression.tracing import profile_of
from pocketpipe.exporting.cost import cost_of
from pocketpipe.exporting.onnx import export_onnx
from pocketpipe.task import TASKS, Task

SHAPE = (6, 8)


class Letters(nn.Module):
    """Layers and attention by einsum, whose leading axes are dots."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 12)
        self.weight = nn.Parameter(torch.randn(12, 10) / 4)
        self.last = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 6, 8) -> (N, 3)."""
        x = torch.einsum("...d,de->...e", self.first(x).relu(), self.weight).relu()
        scores = torch.einsum("...id,...jd->...ij", x, x).softmax(-1)
        return self.last((scores @ x).mean(1))  # type: ignore[no-any-return]


class Neighbours(nn.Module):
    """One matrix of neighbours between layers of several widths."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(8, 16), nn.Linear(16, 32), nn.Linear(32, 3)
        self.register_buffer("near", torch.rand(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 6, 8) -> (N, 3)."""
        near: Any = self.near
        x = (near @ self.first(x)).relu()
        return self.last((near @ self.second(x)).relu().mean(1))  # type: ignore[no-any-return]


class Pairs(nn.Module):
    """A product that tracing has no rule for."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.pair = nn.Linear(8, 8), nn.Bilinear(8, 8, 4)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 8) -> (N, 4)."""
        x = self.first(x).relu()
        return self.pair(x, x)  # type: ignore[no-any-return]


def sized(shape: tuple[int, ...]) -> Task:
    task: Task = TASKS.resolve("digits")(Path())
    task.input_shape = shape
    return task


@pytest.mark.parametrize("kind", [Letters, Neighbours])
def test_predicted_macs_are_those_of_the_file_at_half_the_width(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    network = kind().eval()
    profile = profile_of(network, SHAPE)
    assert profile.cost().macs == cost_of(export_onnx(network, SHAPE), "f").macs
    halves = {group.name: group.channels // 2 for group in profile.slimmable}
    assert halves
    step = ChannelsStep(widths=halves, reconstruction=None)
    task = sized(SHAPE)
    slim = step.pin(network, task, None).apply(network, task)  # type: ignore[arg-type]
    assert step.predict(profile).cost().macs == cost_of(export_onnx(slim, SHAPE), "f").macs


def test_macs_without_a_rule_are_counted_as_those_of_the_file_and_stay() -> None:
    network = Pairs().eval()
    measured = cost_of(export_onnx(network, (8,)), "f").macs
    traced = profile_of(network, (8,))
    assert traced.cost().macs < measured
    whole = traced.with_macs_of(measured)
    assert whole.cost().macs == measured
    halves = {group.name: group.channels // 2 for group in whole.slimmable}
    saved = traced.cost().macs - traced.cost(halves).macs
    assert whole.cost(halves).macs == measured - saved
    assert whole.with_macs_of(measured) == whole
