"""TrainingJob: everything that decides a training's result, in memory or as files for other processes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketpipe.errors import UserError
from pocketpipe.network import StoredNetwork
from pocketpipe.storage import load_network, load_split, save_network, save_split, write_json
from pocketpipe.task import Splits, TaskChoice
from pocketpipe.training.recipe import Recipe, TrainerSettings

SPEC_FILE = "job.json"


@dataclass(frozen=True)
class TrainingJob:
    """One training: from which weights, on which data, by which recipe."""

    network: StoredNetwork
    task_choice: TaskChoice
    data_root: Path
    splits: Splits
    recipe: Recipe
    settings: TrainerSettings
    seed: int
    title: str
    teachers: tuple[StoredNetwork, ...] = ()
    """Used if the recipe distils; features come from the first."""

    def __post_init__(self) -> None:
        if self.recipe.distillation is not None and not self.teachers:
            raise UserError(f"{self.title}: the recipe distils, but there is no teacher; set distillation to null")
        uneven = self.recipe.uneven(self.settings)
        if uneven is not None:
            raise UserError(f"{self.title}: {uneven}")
        if len(self.splits.train) < self.settings.ranks:
            raise UserError(
                f"{self.splits.train.name}: {len(self.splits.train)} examples for {self.settings.ranks} processes; "
                "lower trainer.devices"
            )

    def digest(self) -> str:
        """SHA-256 over everything that decides the result. Threads, title and data root are not among it."""
        distils = self.recipe.distillation is not None
        parts = {
            "network": self.network.digest(),
            "teachers": [teacher.digest() for teacher in self.teachers if distils],
            "task": self.task_choice.model_dump(mode="json"),
            "train": self.splits.train.digest,
            "val": self.splits.val.digest,
            "recipe": self.recipe.model_dump(mode="json"),
            "settings": self.settings.model_dump(mode="json", exclude={"threads"}),
            "seed": self.seed,
        }
        return _sha256(parts)

    def taught_digest(self, execution: Mapping[str, str]) -> str:
        """SHA-256 over everything that decides what the teachers say about a view: the same for several trainings.

        `execution` is where it runs and in which precision: views are drawn otherwise on a GPU.
        """
        distillation = self.recipe.distillation
        parts = {
            "teachers": [teacher.digest() for teacher in self.teachers],
            "temperature": distillation.temperature if distillation and len(self.teachers) > 1 else None,
            "task": self.task_choice.model_dump(mode="json"),
            "train": self.splits.train.digest,
            "seed": self.seed,
            "precision": execution["precision"],
            "accelerator": execution["accelerator"],
        }
        return _sha256(parts)

    def save(self, folder: Path) -> None:
        """Write the job as files: splits, networks, and the spec, last."""
        save_split(self.splits.train, folder / "train.npz")
        save_split(self.splits.val, folder / "val.npz")
        save_network(self.network, folder / "network")
        for number, teacher in enumerate(self.teachers):
            save_network(teacher, folder / f"teacher-{number}")
        spec = {
            "task_choice": self.task_choice.model_dump(mode="json"),
            "data_root": str(self.data_root),
            "recipe": self.recipe.model_dump(mode="json"),
            "settings": self.settings.model_dump(mode="json"),
            "seed": self.seed,
            "title": self.title,
            "teachers": len(self.teachers),
        }
        write_json(folder / SPEC_FILE, spec)

    @classmethod
    def load(cls, folder: Path) -> TrainingJob:
        """Read what `save` wrote."""
        spec: dict[str, Any] = json.loads((folder / SPEC_FILE).read_text())
        return cls(
            network=load_network(folder / "network"),
            task_choice=TaskChoice.model_validate(spec["task_choice"]),
            data_root=Path(spec["data_root"]),
            splits=Splits(load_split(folder / "train.npz"), load_split(folder / "val.npz")),
            recipe=Recipe.model_validate(spec["recipe"]),
            settings=TrainerSettings.model_validate(spec["settings"]),
            seed=spec["seed"],
            title=spec["title"],
            teachers=tuple(load_network(folder / f"teacher-{number}") for number in range(spec["teachers"])),
        )


def _sha256(parts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
