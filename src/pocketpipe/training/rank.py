"""One of several training processes: reads the job from files and trains its part of every batch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pocketpipe.training.batches import Shard
from pocketpipe.training.job import TrainingJob
from pocketpipe.training.train import train
from pocketpipe.training.workspace import Workspace


def train_rank(spec: dict[str, Any]) -> dict[str, Any]:
    """Train as the rank that torchrun's environment variables name. The result lies in the workspace."""
    place = Workspace(Path(spec["workspace"]), Path(spec["shared"]) if "shared" in spec else None)
    shard = Shard(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    train(TrainingJob.load(place.inputs), place, progress=None, shard=shard)
    return {"rank": shard.rank}
