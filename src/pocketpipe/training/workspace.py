"""The folder in which a training keeps what it needs to go on after an interruption."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pocketpipe.network import StoredNetwork
from pocketpipe.storage import load_network, remove_whole, replacing, save_network, write_json
from pocketpipe.training.curves import Curves

log = logging.getLogger(__name__)


TAUGHT = "taught"


def forget_taught(folder: Path) -> None:
    """Remove what trainings in `folder`, or those that share it, kept of their teachers' answers."""
    shutil.rmtree(folder / TAUGHT, ignore_errors=True)


@dataclass(frozen=True)
class Workspace:
    """Files of one training; all of them are written whole or not at all."""

    folder: Path
    shared: Path | None = None
    """Where trainings of one kind keep what several of them use; who named it removes it."""

    def taught(self, digest: str) -> Path:
        """What teachers said about views, by the digest of what decides that."""
        return (self.shared or self.folder) / TAUGHT / digest[:16]

    @property
    def checkpoint(self) -> Path:
        """State after the last complete epoch; gone once the training is finished."""
        return self.folder / "epoch.ckpt"

    @property
    def curves(self) -> Path:
        """Figures of all complete epochs."""
        return self.folder / "curves.json"

    @property
    def inputs(self) -> Path:
        """The job as files, where other processes train."""
        return self.folder / "inputs"

    @property
    def ranks(self) -> Path:
        """Logs and results of the processes."""
        return self.folder / "ranks"

    def open_for(self, job_digest: str) -> None:
        """Make the folder this job's: what another job left there is removed."""
        owner = self.folder / "job.sha256"
        if owner.exists() and owner.read_text().strip() != job_digest:
            log.info("%s: left by a different training; starting anew", self.folder.name)
            remove_whole(self.folder)  # file by file, its owner's name might go first and its result stay
        with replacing(owner) as partial:
            partial.write_text(job_digest + "\n")

    def usable_checkpoint(self) -> Path | None:
        """The checkpoint, if there is one that can be read."""
        if not self.checkpoint.exists():
            return None
        try:
            torch.load(self.checkpoint, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # torch.load has no class of its own for a broken file
            log.warning("%s: cannot read the checkpoint (%s); starting anew", self.checkpoint.name, error)
            return None
        return self.checkpoint

    def finish(self, network: StoredNetwork, facts: dict[str, Any]) -> None:
        """Keep the result; `facts.json`, written last, says that it is complete."""
        save_network(network, self.folder / "result")
        write_json(self.folder / "facts.json", facts)

    def discard_inputs(self) -> None:
        """Remove what only an unfinished training needs; the logs of its processes stay."""
        self.checkpoint.unlink(missing_ok=True)
        shutil.rmtree(self.inputs, ignore_errors=True)
        forget_taught(self.folder)

    def result(self) -> tuple[StoredNetwork, Curves, dict[str, Any]] | None:
        """(network, curves, facts) of a finished training; None if it is not finished."""
        facts = self.folder / "facts.json"
        if not facts.exists():
            return None
        return load_network(self.folder / "result"), Curves.load(self.curves), json.loads(facts.read_text())
