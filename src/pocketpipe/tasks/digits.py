"""Handwritten digits, 8x8 (scikit-learn's `load_digits`, UCI Optical Recognition): comes with the package."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pocketpipe.task import TASKS, Preprocessing, Split
from pocketpipe.tasks.augmentation import random_shift
from pocketpipe.tasks.classification import ClassificationTask

if TYPE_CHECKING:
    import torch


class Digits(ClassificationTask):
    """1,797 images of one channel, 0..16 stored as uint8 (N, 1, 8, 8)."""

    input_shape: tuple[int, ...] = (1, 8, 8)
    labels = tuple("0123456789")
    preprocessing = Preprocessing(scale=1 / 16, mean=(0.305,), std=(0.376,))  # of all pixels
    val_share = 0.1875  # of the 80 % that are not test: 15 % of all

    def source_digest(self) -> str:
        """The images are part of scikit-learn; a new version may bring new ones."""
        return f"scikit-learn {version('scikit-learn')} digits"

    def read(self) -> tuple[Split, Split | None]:
        """All digits, none set apart."""
        from sklearn.datasets import load_digits

        images, targets = load_digits(return_X_y=True)
        return Split("digits", images.astype(np.uint8).reshape(-1, *self.input_shape), targets.astype(np.int64)), None

    def augment(self, inputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Moved by up to one pixel."""
        return random_shift(inputs, 1, generator)


@TASKS.register("digits")
def build(data_root: Path) -> Digits:
    """The digits; `data_root` is not needed."""
    return Digits()
