"""What holds for every test: settings that must stand before an engine is imported, and the same run each time."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests share two cores, and tiny networks lose by splitting their work

from pathlib import Path

import pytest
import torch
from hypothesis import settings

# One run proves what the next will find: no new examples in CI, and no failure because a machine was busy.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables, to be copied: making them costs seconds."""
    from pocketpipe.tracking.store import open_store

    folder = tmp_path_factory.mktemp("template")
    open_store(f"sqlite:///{folder / 'mlflow.db'}", folder / "artifacts", "template")
    return folder / "mlflow.db"


@pytest.fixture(autouse=True)
def same_random_weights() -> None:
    """Which tests ran before in this process must not decide about weights: one draw in many has a dead layer."""
    torch.manual_seed(0)
