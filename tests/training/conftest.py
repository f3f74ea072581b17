"""Trainings that several tests begin with, made once in a process. Nobody changes what they left."""

from __future__ import annotations

from pathlib import Path

import pytest

from pocketpipe.network import StoredNetwork
from pocketpipe.training.fit import Fitted
from training.samples import train


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> StoredNetwork:
    """Of another seed than the students."""
    return train(tmp_path_factory.mktemp("teacher"), seed=8).network


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> StoredNetwork:
    """A further teacher."""
    return train(tmp_path_factory.mktemp("other"), seed=9).network


@pytest.fixture(scope="session")
def whole_workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `whole` was trained."""
    folder = tmp_path_factory.mktemp("whole")
    train(folder)
    return folder


@pytest.fixture(scope="session")
def whole(whole_workspace: Path) -> Fitted:
    """What `train` makes as it stands."""
    return train(whole_workspace)
