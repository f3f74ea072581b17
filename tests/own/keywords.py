"""A user's own keyword spotting: features of one second of speech in a file, splits by speaker, two networks."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pocketpipe.errors import UserError
from pocketpipe.networks.unrolling import unrolled
from pocketpipe.task import Preprocessing, Split, Splits
from pocketpipe.tasks.classification import ClassificationTask

WORDS = ("down", "go", "left", "no", "right", "stop", "up", "yes")
STEPS, COEFFICIENTS = 16, 10


class Keywords(ClassificationTask):
    """`X_train`, `y_train` and the same of `val` and `test` in an .npz file, as they were extracted."""

    input_shape = (1, STEPS, COEFFICIENTS)
    labels = WORDS
    preprocessing = Preprocessing()  # one mean for each coefficient lies along axis 2: taken out in `load`
    holdouts = ()  # the splits are ours: no speaker is in two of them

    def __init__(self, file: Path) -> None:
        self.file = file

    def source_digest(self) -> str:
        if not self.file.is_file():
            raise UserError(f"there is no {self.file}; extract the features first, or set POCKETPIPE_DATA")
        return hashlib.sha256(self.file.read_bytes()).hexdigest()

    def load(self, *, seed: int, holdout: str | None) -> tuple[Splits, Split]:
        """Train decides the scale of each coefficient. Examples are mixed: in the file they lie word by word."""
        with np.load(self.file) as arrays:
            train = arrays["X_train"].astype(np.float32)
            mean, std = train.mean((0, 1)), train.std((0, 1))

            def split(role: str) -> Split:
                inputs = ((arrays[f"X_{role}"].astype(np.float32) - mean) / std)[:, None]
                targets = arrays[f"y_{role}"].astype(np.int64)
                order = np.random.default_rng(0).permutation(len(targets))
                return Split(f"{role}, {len(targets):,} utterances", inputs[order], targets[order])

            return Splits(split("train"), split("val")), split("test")


def build(data_root: Path, *, file: str = "keywords.npz") -> Keywords:
    """The task on a file under `data_root`."""
    return Keywords(data_root / file)


def ds_cnn(input_shape: tuple[int, ...], outputs: int, *, width: int = 24) -> nn.Module:
    """Depthwise separable convolutions (Zhang et al. 2017, "Hello Edge"); answers with logits, no Softmax."""

    def block() -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        )  # fmt: skip

    return nn.Sequential(
        nn.Conv2d(input_shape[0], width, (5, 4), stride=2, padding=(2, 1), bias=False), nn.BatchNorm2d(width),
        nn.ReLU(), block(), block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, outputs),
    )  # fmt: skip


class Gru(nn.Module):
    """torch's GRU over the steps, and a linear layer on its last output."""

    def __init__(self, features: int, outputs: int, hidden: int) -> None:
        super().__init__()
        self.gru = nn.GRU(features, hidden, batch_first=True)
        self.head = nn.Linear(hidden, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        steps, _ = self.gru(x.squeeze(1))
        logits: torch.Tensor = self.head(steps[:, -1])
        return logits


def gru(input_shape: tuple[int, ...], outputs: int, *, hidden: int = 24) -> nn.Module:
    """`unrolled`: targets have no recurrent operator. Weights files of the network as it is written are taken."""
    return unrolled(Gru(input_shape[-1], outputs, hidden))


def write(file: Path, examples: int = 640) -> None:
    """Speech that is made up: each word is a pattern, shifted in time and noisy; words follow each other."""
    generator = np.random.default_rng(3)
    patterns = generator.normal(size=(len(WORDS), STEPS, COEFFICIENTS))
    arrays = {}
    for role, count in (("train", examples), ("val", examples // 4), ("test", examples // 4)):
        words = np.sort(np.arange(count) % len(WORDS))
        shifted = [np.roll(patterns[word], generator.integers(-2, 3), axis=0) for word in words]
        arrays[f"X_{role}"] = 5 + 3 * (np.stack(shifted) + 0.5 * generator.normal(size=(count, STEPS, COEFFICIENTS)))
        arrays[f"y_{role}"] = words.astype(np.int32)
    np.savez(file, **arrays)
