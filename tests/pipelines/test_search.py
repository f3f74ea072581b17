"""The search stage: when a champion's plan is gone on with."""

from __future__ import annotations

from typing import Any

import pytest

from compression.zoo import DIGIT, zoo
from pocketpipe.budget import Limits
from pocketpipe.champion import Champion
from pocketpipe.compression.channels import ChannelsStep
from pocketpipe.compression.tracing import profile_of
from pocketpipe.cost import Cost
from pocketpipe.evaluation import Evaluation
from pocketpipe.network import StoredNetwork
from pocketpipe.pipelines.search.nodes import _keeps
from pocketpipe.plan import CompressionPlan

TASK: Any = type("Task", (), {"input_shape": DIGIT, "labels": tuple("0123456789")})


COST = Cost(macs=1, parameters=1, file_bytes=1)
EVALUATION = Evaluation(
    metric_name="accuracy", data="test", test_digest="", teacher_cost=COST, student_cost=COST, subjects=(), verdicts=()
)


def champion(step: ChannelsStep, **state: Any) -> Champion:
    plan = CompressionPlan((step,))
    network = StoredNetwork("resnet8")
    return Champion(network, StoredNetwork("resnet8", plan=plan, **state), plan, b"", EVALUATION)


def test_a_plan_that_fits_the_network_no_more_keeps_nothing(caplog: pytest.LogCaptureFixture) -> None:
    profile = profile_of(zoo("resnet8", DIGIT), DIGIT)
    limits = Limits(macs=profile.cost().macs)
    gone = ChannelsStep(widths={"of another day": 3}, channels={"of another day": (0, 1, 2)})
    assert not _keeps(champion(gone), TASK, profile, limits)
    assert "does not fit the network as it is now: channels.widths.of another day" in caplog.text
    fitting = ChannelsStep(widths={"conv1": 8}, channels={"conv1": tuple(range(8))})
    assert _keeps(champion(fitting), TASK, profile, limits)
    assert not _keeps(champion(fitting), TASK, profile, Limits(macs=1000))
    other = {"state": {"quantizers.relu.scale": zoo("resnet8", DIGIT).conv1.weight}}
    assert not _keeps(champion(fitting, **other), TASK, profile, limits), "weights of other code"
