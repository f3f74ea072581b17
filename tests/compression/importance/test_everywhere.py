"""Every criterion, and reconstruction, on networks of every form: nothing is left without a score, nothing breaks."""

from __future__ import annotations

from itertools import combinations
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from compression.odd_networks import ODD
from compression.zoo import DIGIT, ROWS, odd, trained_looking, zoo
from pocketpipe.compression.channels import ChannelsStep
from pocketpipe.compression.importance import CRITERIA, importance
from pocketpipe.compression.importance.discrimination import by_discrimination
from pocketpipe.compression.importance.geometry import distances
from pocketpipe.compression.importance.gradients import taylor
from pocketpipe.compression.importance.lasso import by_lasso
from pocketpipe.compression.importance.norms import batchnorm_scale, drawn, l1, l2
from pocketpipe.compression.sampling import calibration
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


def test_names_stand_for_their_criteria() -> None:
    """No name is another's, and none falls back to another where it need not."""
    network, generator = trained_looking(zoo("resnet8", DIGIT)), np.random.default_rng(0)
    data = Split("noise", generator.random((12, *DIGIT), np.float32), np.arange(12) % 3)
    task = _task(DIGIT, 10)
    groups = [group for group in trace(network, DIGIT).groups if group.slimmable]
    inputs, targets = calibration(task, data, torch.device("cpu"), wanted_by="a test")
    expected: dict[str, dict[str, Tensor]] = {
        "l1": {group.name: l1(network, group) for group in groups},
        "l2": {group.name: l2(network, group) for group in groups},
        "bn_scale": {group.name: batchnorm_scale(network, group) for group in groups},
        "fpgm": {group.name: distances(network, group) for group in groups},
        "taylor": taylor(network, groups, task, inputs, targets),
        "lasso": by_lasso(network, groups, inputs),
        "dcp": by_discrimination(network, groups, task, inputs, targets),
        "random": {group.name: drawn(group, 0) for group in groups},
    }
    assert set(expected) == set(CRITERIA)
    found = {name: importance(network, groups, name, task=task, data=data, seed=0) for name in CRITERIA}
    for name in CRITERIA:
        assert set(expected[name]) == {group.name for group in groups}
        assert all(torch.equal(found[name][group.name], expected[name][group.name]) for group in groups)
    for one, other in combinations(CRITERIA, 2):
        assert any(not torch.allclose(found[one][g.name].double(), found[other][g.name].double()) for g in groups)
