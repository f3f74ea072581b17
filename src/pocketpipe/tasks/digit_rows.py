"""Handwritten digits read row by row: a sequence of 8 steps with 8 features, for recurrent networks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pocketpipe.task import TASKS
from pocketpipe.tasks.augmentation import random_shift
from pocketpipe.tasks.digits import Digits

if TYPE_CHECKING:
    import torch


class DigitRows(Digits):
    """The images of `digits` as (N, 8 rows, 8 features); the same examples in the same splits."""

    input_shape = (8, 8)

    def augment(self, inputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Moved by up to one row or column, as the images are."""
        return random_shift(inputs.unsqueeze(1), 1, generator).squeeze(1)


@TASKS.register("digit_rows")
def build(data_root: Path) -> DigitRows:
    """The digits as sequences; `data_root` is not needed."""
    return DigitRows()
