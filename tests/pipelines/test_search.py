"""The search stage: when a champion's plan is gone on with."""

from __future__ import annotations

import pytest

from compression.zoo import DIGIT, zoo
from pocketpipe.budget import Limits
from pocketpipe.compression.channels import ChannelsStep
from pocketpipe.compression.tracing import profile_of
from pocketpipe.pipelines.search.nodes import _keeps
from pocketpipe.plan import CompressionPlan


def test_a_plan_that_names_what_is_not_there_any_more_keeps_nothing(caplog: pytest.LogCaptureFixture) -> None:
    profile = profile_of(zoo("resnet8", DIGIT), DIGIT)
    limits = Limits(macs=profile.cost().macs)
    gone = CompressionPlan((ChannelsStep(widths={"of another day": 3}),))
    assert not _keeps(gone, profile, limits)
    assert "does not fit the network as it is now: channels.widths.of another day" in caplog.text
    fitting = CompressionPlan((ChannelsStep(widths={"conv1": 8}),))
    assert _keeps(fitting, profile, limits)
    assert not _keeps(fitting, profile, Limits(macs=1000))
