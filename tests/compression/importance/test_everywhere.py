"""Every criterion, and reconstruction, on networks of every form: nothing is left without a score, nothing breaks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from compression.odd_networks import ODD
from compression.zoo import ROWS, odd, zoo
from pocketpipe.compression.channels import ChannelsStep
from pocketpipe.compression.importance import CRITERIA, importance
from pocketpipe.compression.tracing import trace
from pocketpipe.plan import CompressionPlan
from pocketpipe.task import Preprocessing, Split

FORMS = [*(form for form in ODD if form != "written_down"), "gru"]
"""Without the one whose code needs contiguous images: prepared ones lie channels last."""


def _task(shape: tuple[int, ...], outputs: int) -> Any:
    """A classification task of any shape: all that criteria ask of one."""

    def loss(outputs: Tensor, targets: Tensor, *, smoothing: float = 0.0) -> Tensor:
        return functional.cross_entropy(outputs.flatten(1), targets, label_smoothing=smoothing)

    return SimpleNamespace(
        input_shape=shape,
        labels=tuple("abcdefghijklmnopqrstuvwxyz"[:outputs]),
        preprocessing=Preprocessing(),
        loss=loss,
        augment_both=lambda inputs, targets, generator: (inputs, targets),
    )


@pytest.mark.parametrize("form", FORMS)
def test_every_criterion_scores_every_group_and_the_cut_is_carried_out(form: str) -> None:
    network, shape = odd(form) if form in ODD else (zoo(form, ROWS), ROWS)
    generator = np.random.default_rng(0)
    data = Split("noise", generator.random((12, *shape), np.float32), np.arange(12) % 3)
    with torch.no_grad():
        outputs = network(torch.from_numpy(data.inputs[:1])).flatten(1).shape[1]
    task = _task(shape, outputs)
    groups = [group for group in trace(network, shape).groups if group.slimmable]
    for criterion in CRITERIA:
        scores = importance(network, groups, criterion, task=task, data=data, seed=0)
        assert {name: len(score) for name, score in scores.items()} == {g.name: g.channels for g in groups}
        assert all(bool(torch.isfinite(score).all()) for score in scores.values())
    step = ChannelsStep(
        widths={group.name: max(1, group.channels // 2) for group in groups},
        criterion="taylor",
        reconstruction="least_squares",
    )
    slimmed, _ = CompressionPlan((step,)).carry_out(network, task, data)
    with torch.no_grad():
        assert bool(torch.isfinite(slimmed(torch.from_numpy(data.inputs))).all())
