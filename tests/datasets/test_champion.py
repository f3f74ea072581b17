"""The champion as a start: only of the same network, whose outputs still mean the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pocketpipe.champion import Champion
from pocketpipe.config import Config, read_config
from pocketpipe.cost import Cost
from pocketpipe.datasets.champion import no_start
from pocketpipe.evaluation import Evaluation
from pocketpipe.network import StoredNetwork
from pocketpipe.plan import CompressionPlan
from pocketpipe.tracking.registry import Registered

BASE = Path(__file__).parents[2] / "conf" / "base"


def config(**network: Any) -> Config:
    files = (BASE / "parameters.yml", BASE / "parameters_stages.yml")
    asked = {key: value for file in files for key, value in yaml.safe_load(file.read_text()).items()}
    return read_config(asked | {"network": network})


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        ({"name": "lenet"}, None),
        ({"name": "resnet20"}, "is a lenet, not the network of this recipe"),
        ({"name": "lenet", "options": {"width": 2}}, "is a lenet, not the network of this recipe"),
    ],
)
def test_a_champion_of_another_network_is_no_start(tmp_path: Path, network: dict[str, Any], reason: str | None) -> None:
    cost = Cost(macs=1, parameters=1, file_bytes=1)
    evaluation = Evaluation(
        metric_name="accuracy",
        data="test",
        test_digest="",
        teacher_cost=cost,
        student_cost=cost,
        subjects=(),
        verdicts=(),
    )
    kept = Champion(StoredNetwork("lenet"), StoredNetwork("lenet"), CompressionPlan(), b"", evaluation)
    kept.save(tmp_path)
    registered = Registered("digits-lenet", "3", tmp_path, kept.evaluation, "run")
    assert no_start(registered, config(**network)) == reason
