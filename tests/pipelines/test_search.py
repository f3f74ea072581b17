"""The search stage: when a champion's plan is gone on with."""

from __future__ import annotations

from typing import Any

import pytest

from compression.zoo import DIGIT, zoo
from pocketpipe.budget import Limits
from pocketpipe.champion import Champion
from pocketpipe.compression.blocks import BlocksStep
from pocketpipe.compression.channels import ChannelsStep
from pocketpipe.compression.tracing import profile_of
from pocketpipe.cost import Cost
from pocketpipe.errors import Diverged
from pocketpipe.evaluation import Evaluation
from pocketpipe.network import StoredNetwork
from pocketpipe.pipelines.search.nodes import _champions_score, _keeps, _uses
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


def test_a_champion_of_a_budget_that_was_relaxed_since_is_not_kept_without_a_search() -> None:
    profile, steps = profile_of(zoo("resnet8", DIGIT), DIGIT), [ChannelsStep()]
    plan = CompressionPlan((ChannelsStep(widths={"conv1": 8}, channels={"conv1": tuple(range(8))}),))
    macs = plan.predict(profile).cost().macs
    assert _uses(plan, steps, profile, Limits(macs=macs))
    assert _uses(plan, steps, profile, Limits(macs=int(macs / 0.92)))
    assert not _uses(plan, steps, profile, Limits(macs=int(macs / 0.87)))
    assert _uses(CompressionPlan(), steps, profile, Limits(macs=2 * profile.cost().macs)), "no more is to be had"
    blocks = CompressionPlan((BlocksStep(keep={"layer1.0": 0}),))
    assert _uses(blocks, [BlocksStep()], profile, Limits(macs=int(blocks.predict(profile).cost().macs * 1.2)))


@pytest.mark.parametrize(
    ("as_it_is", "tuned", "kept", "doubts"),
    [(0.95, None, 0.95, 0), (0.85, 0.92, 0.92, 0), (0.85, 0.7, 0.85, 0), (0.85, Diverged("it went away"), 0.85, 1)],
    ids=["enough", "better", "worse", "diverged"],
)
def test_a_champion_is_tuned_where_it_is_not_enough_as_it_is(
    as_it_is: float, tuned: Any, kept: float, doubts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its better score counts: the short training can cost more than it brings."""

    def tune(student: StoredNetwork, name: str) -> float:
        if isinstance(tuned, Exception):
            raise tuned
        assert tuned is not None, "it was good enough"
        return float(tuned)

    monkeypatch.setattr("pocketpipe.pipelines.search.nodes.metric_of", lambda *_: as_it_is)
    step = ChannelsStep(widths={"conv1": 8}, channels={"conv1": tuple(range(8))})
    task: Any = type("Task", (), {"higher_is_better": True, "input_shape": DIGIT, "labels": tuple("0123456789")})
    monkeypatch.setattr(StoredNetwork, "build", lambda *_: None)
    found = _champions_score(champion(step), task, None, lambda score: score >= 0.9, tune)  # type: ignore[arg-type]
    assert (found[0], len(found[1])) == (kept, doubts)
