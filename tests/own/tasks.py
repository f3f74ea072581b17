"""A user's own task: which of three shapes is drawn on a grid of 8x8."""

import hashlib
from pathlib import Path

import numpy as np

from pocketpipe.task import Preprocessing, Split
from pocketpipe.tasks.classification import ClassificationTask
from pocketpipe.tasks.splitting import by_content

SHAPES = ("bar", "cross", "square")


class Shapes(ClassificationTask):
    """Noisy drawings, made from a seed."""

    input_shape = (1, 8, 8)
    labels = SHAPES
    preprocessing = Preprocessing(scale=1 / 255, mean=(0.5,), std=(0.5,))

    def __init__(self, count: int) -> None:
        self.count = count

    def source_digest(self) -> str:
        return hashlib.sha256(f"shapes {self.count}".encode()).hexdigest()

    def read(self) -> tuple[Split, Split | None]:
        generator = np.random.default_rng(7)
        targets = generator.integers(0, len(SHAPES), self.count)
        images = generator.integers(0, 60, (self.count, 1, 8, 8), np.uint8)
        for image, target in zip(images, targets, strict=True):
            _draw(image[0], int(target), *generator.integers(0, 4, 2))
        return Split(f"{self.count} shapes", images, targets.astype(np.int64)), None


def _draw(canvas: np.ndarray, shape: int, top: int, left: int) -> None:
    window = canvas[top : top + 5, left : left + 5]
    if shape == 0:
        window[:, 2] = 255
    elif shape == 1:
        window[2, :] = window[:, 2] = 255
    else:
        window[[0, -1], :] = window[:, [0, -1]] = 255


def build(data_root: Path, *, count: int = 300) -> Shapes:
    """The task; nothing is read from `data_root`."""
    return Shapes(count)


class StoredShapes(Shapes):
    """The same from a file that may grow: `shapes.npz` in the data root."""

    pick = staticmethod(by_content)

    def __init__(self, file: Path) -> None:
        self.file = file
        with np.load(file) as arrays:
            self.labels = tuple(str(label) for label in arrays["labels"])

    def source_digest(self) -> str:
        return hashlib.sha256(self.file.read_bytes()).hexdigest()

    def read(self) -> tuple[Split, Split | None]:
        with np.load(self.file) as arrays:
            return Split("stored shapes", arrays["inputs"], arrays["targets"]), None


def from_folder(data_root: Path) -> StoredShapes:
    """The task on `data_root`/shapes.npz."""
    return StoredShapes(data_root / "shapes.npz")
