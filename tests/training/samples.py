"""Networks and a task of this room's tests, named by reference so that other processes can build them too."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pocketpipe.network import StoredNetwork
from pocketpipe.task import Preprocessing, Split, Splits, Task, TaskChoice
from pocketpipe.training.batches import Shard
from pocketpipe.training.fit import Fitted, fit
from pocketpipe.training.job import TrainingJob
from pocketpipe.training.recipe import Recipe, TrainerSettings
from pocketpipe.training.train import train as train_here
from pocketpipe.training.workspace import Workspace


class Blobs(Task):
    """Images 1x6x6 of four classes: a bright quadrant under noise, stored as uint8. Views are flipped at random."""

    input_shape = (1, 6, 6)
    labels = ("a", "b", "c", "d")
    preprocessing = Preprocessing(scale=1 / 255, mean=(0.5,), std=(0.25,))
    metric_name = "accuracy"

    def source_digest(self) -> str:
        return "blobs"

    def load(self, *, seed: int, holdout: str | None) -> tuple[Splits, Split]:
        return Splits(blobs("train", 200, seed), blobs("val", 80, seed + 1)), blobs("test", 80, seed + 2)

    def augment(self, inputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        noise = torch.randint(0, 40, inputs.shape, generator=generator, device=generator.device)
        return (inputs // 2 + noise).to(torch.uint8)

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor, *, smoothing: float = 0.0) -> torch.Tensor:
        return nn.functional.cross_entropy(outputs, targets, label_smoothing=smoothing)

    def scores(self, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        return (outputs.argmax(1) == targets).astype(np.float64)

    def metric_by_class(self, outputs: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        return {}

    def agreement(self, outputs: np.ndarray, reference: np.ndarray) -> float:
        return float((outputs.argmax(1) == reference.argmax(1)).mean())


def blobs(name: str, count: int, seed: int) -> Split:
    generator = np.random.default_rng(seed)
    targets = np.arange(count) % 4
    inputs = generator.integers(0, 120, (count, 1, 6, 6))
    for index, target in enumerate(targets):
        row, column = divmod(int(target), 2)
        inputs[index, 0, 3 * row : 3 * row + 3, 3 * column : 3 * column + 3] += 90
    return Split(name, inputs.astype(np.uint8), targets.astype(np.int64))


def build_task(data_root: Path) -> Task:
    return Blobs()


def build_fragile_task(data_root: Path) -> Task:
    """A task whose loss fails in rank 1 of several processes."""

    class Fragile(Blobs):
        def loss(self, outputs: torch.Tensor, targets: torch.Tensor, *, smoothing: float = 0.0) -> torch.Tensor:
            if os.environ.get("RANK") == "1":
                raise ArithmeticError("rank one cannot count")
            return super().loss(outputs, targets, smoothing=smoothing)

    return Fragile()


class Interrupted(Blobs):
    """Draws views from generators of other libraries. At the ninth batch that is counted, in the middle of the second
    epoch, somebody presses Ctrl-C."""

    calls = -1000

    def augment(self, inputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        Interrupted.calls += 1
        if Interrupted.calls == 9:
            raise KeyboardInterrupt
        noise = np.random.randint(0, 40, tuple(inputs.shape)) + random.randint(0, 9)
        return (inputs // 2 + torch.from_numpy(noise)).to(torch.uint8)


def build_interrupted(data_root: Path) -> Task:
    return Interrupted()


def plain(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Without BatchNorm."""
    return nn.Sequential(
        nn.Conv2d(input_shape[0], 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, outputs)
    )


def thin(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """`plain` with fewer channels, as if slimmed."""
    return nn.Sequential(
        nn.Conv2d(input_shape[0], 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 36, outputs)
    )


def normalized(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """With BatchNorm and dropout: running statistics and PyTorch's generator are part of a training's state."""
    return nn.Sequential(
        nn.Conv2d(input_shape[0], 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Flatten(),
        nn.Linear(8 * 36, outputs),
    )


class Idle(nn.Module):
    """Has a layer that its answer does not come from."""

    def __init__(self, input_shape: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.body, self.idle = plain(input_shape, outputs), nn.Linear(2, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.body(inputs)
        return made


def idle(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    return Idle(input_shape, outputs)


class Auxiliary(nn.Module):
    """Answers with a second head while it is trained, as GoogLeNet does."""

    def __init__(self, input_shape: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.body = normalized(input_shape, outputs)

    def forward(self, inputs: torch.Tensor) -> object:
        made = self.body(inputs)
        return (made, made) if self.training else made


def auxiliary(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    return Auxiliary(input_shape, outputs)


def pooled(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """For images of any size: quarters are averaged before the last layer."""
    return nn.Sequential(
        nn.Conv2d(input_shape[0], 6, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, outputs),
    )


def narrow(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """`normalized` with fewer channels, as if slimmed."""
    return nn.Sequential(
        nn.Conv2d(input_shape[0], 3, 3, padding=1, bias=False),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Flatten(),
        nn.Linear(3 * 36, outputs),
    )


def deep(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Two layers whose channels can be cut: groups "0" (8) and "3" (6)."""
    return nn.Sequential(
        nn.Conv2d(input_shape[0], 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 36, outputs),
    )


TASK = TaskChoice(name="training.samples:build_task")
SETTINGS = TrainerSettings(threads=1, compile="never")
RECIPE = Recipe(epochs=3, batch_size=32, learning_rate=0.05, warmup_epochs=1)


def train(
    workspace: Path,
    *,
    network: Callable[..., nn.Module] = normalized,
    start: StoredNetwork | None = None,
    recipe: Recipe = RECIPE,
    settings: TrainerSettings = SETTINGS,
    seed: int = 3,
    task: TaskChoice = TASK,
    teacher: StoredNetwork | None = None,
) -> Fitted:
    splits, _ = Blobs().load(seed=0, holdout=None)
    stored = start or StoredNetwork(f"training.samples:{network.__name__}")
    return fit(
        stored,
        task,
        Path("."),
        splits,
        recipe,
        settings,
        seed=seed,
        workspace=workspace,
        teacher=teacher,
        title="sample",
    )


def train_apart(spec: dict[str, Any]) -> dict[str, Any]:
    """As a rank whose workspace lies on a disk of its own."""
    folder, shard = Path(spec["folder"]), Shard(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    train_here(TrainingJob.load(folder / "inputs"), Workspace(folder / f"rank-{shard.rank}"), None, shard)
    return {}
