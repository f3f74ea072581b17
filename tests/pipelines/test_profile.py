"""The profile stage: what relative budgets are held against."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pocketpipe.budget import Budget
from pocketpipe.exporting.packing import pack
from pocketpipe.network import StoredNetwork
from pocketpipe.pipelines.profile.nodes import profile_network
from pocketpipe.task import TASKS, TaskChoice


@pytest.mark.parametrize("zeros", [0.0, 0.5])
def test_bytes_are_against_the_packed_teacher_where_that_is_clearly_smaller(zeros: float) -> None:
    """A teacher of which half is zeros packs to about half, and that is what the verdict is against."""
    torch.manual_seed(0)
    stored = StoredNetwork("lenet")
    network = stored.build(TASKS.resolve("digits")(Path()))
    with torch.no_grad():
        for weight in (each for each in network.parameters() if each.dim() > 1):
            weight.mul_(torch.rand_like(weight) >= zeros)
    teacher = stored.with_weights(network)
    profile, onnx, _ = profile_network(
        teacher, TaskChoice(name="digits"), Budget(compression=1.5), ["channels"], Path()
    )
    if zeros:
        assert profile.as_it_is().file_bytes == len(pack(onnx)) < 0.7 * len(onnx)
    else:
        assert profile.as_it_is() == profile.cost()
    assert profile.as_it_is().macs == profile.cost().macs
