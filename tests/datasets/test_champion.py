"""The champion as a start: only of the same network, whose outputs still mean the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from kedro.io import DatasetError

from pocketpipe.champion import Champion, Yardstick
from pocketpipe.config import Config, read_config
from pocketpipe.cost import Cost
from pocketpipe.datasets.champion import ChampionDataset, YardstickDataset, no_start
from pocketpipe.evaluation import Evaluation
from pocketpipe.network import StoredNetwork
from pocketpipe.plan import CompressionPlan
from pocketpipe.tracking.registry import CONTENT, Registered

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
    assert no_start(registered(tmp_path), config(**network)) == reason


def registered(folder: Path, **more: Any) -> Registered:
    cost = Cost(macs=1, parameters=1, file_bytes=1)
    evaluation = Evaluation(
        metric_name="accuracy", data="test", test_digest="", teacher_cost=cost, student_cost=cost, subjects=(),
        verdicts=(), **more,
    )  # fmt: skip
    kept = Champion(StoredNetwork("lenet"), StoredNetwork("lenet"), CompressionPlan(), b"the file", evaluation)
    kept.save(folder)
    return Registered("digits-lenet", "3", folder, kept.evaluation, "run", {CONTENT: "c0"})


@pytest.mark.parametrize("labels", [tuple("0123456789"), ("cat", "dog")])
def test_what_is_no_start_is_still_compared_with_unless_its_answers_mean_something_else(
    labels: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = registered(tmp_path, labels=labels)
    (tmp_path / "plan.json").write_text('{"steps": [{"kind": "of another day"}]}')
    monkeypatch.setattr("pocketpipe.datasets.champion.open_registry", lambda: Always(found))
    start, yardstick, asked = ChampionDataset(), YardstickDataset(), config(name="lenet")
    assert start.look_up(asked) == "none"
    assert start.load() is None
    same = labels[0] == "0"
    assert yardstick.look_up(asked) == ("c0" if same else "none")
    assert yardstick.load() == (Yardstick(b"the file", found.evaluation) if same else None)


@pytest.mark.parametrize("dataset", [ChampionDataset, YardstickDataset])
def test_a_champion_that_nobody_looked_up_is_not_taken_for_none(
    dataset: type[ChampionDataset | YardstickDataset],
) -> None:
    with pytest.raises(DatasetError, match="looked up when a pipeline run starts"):
        dataset().load()


class Always:
    """A registry with one champion."""

    def __init__(self, found: Registered) -> None:
        self.found = found

    def champion(self, name: str) -> Registered:
        return self.found
