"""What teachers say about a few fixed views of the training data, computed once each.

Measured with a ResNet-56 as teacher and 45,000 images on two cores: its forward takes a quarter of a student's epoch;
8 views are 8 such forwards instead of one an epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pocketpipe.storage import replacing


class TaughtViews:
    """Teachers' outputs by view and example, float16, in files that a resumed training finds again.

    Kept is what is below the largest logit: softened outputs do not depend on it, and near 0, where it matters,
    float16 has the most digits. Only the view that was asked for last lies in memory.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._view: int | None = None
        self._outputs = torch.empty(0)

    def file(self, view: int) -> Path:
        """Where the outputs of a view lie."""
        return self._folder / f"view-{view}.npy"

    def make(self, view: int, parts: Iterable[Tensor], answer: Callable[[Tensor], Tensor]) -> None:
        """Ask `answer` for logits (n, ..., classes) of each of `parts`, prepared inputs (n, ...), and write them.

        Does nothing if that is done.
        """
        if self.file(view).exists():
            return
        # Joined by NumPy: torch.cat refuses float16 under a CPU's autocast.
        outputs = np.concatenate([_below_largest(answer(part)).cpu().numpy() for part in parts])
        with replacing(self.file(view)) as partial, partial.open("wb") as stream:
            np.save(stream, outputs, allow_pickle=False)

    def of(self, view: int, chosen: Tensor) -> Tensor:
        """Outputs (n, ..., classes) of the examples `chosen`, float32, on their device."""
        if self._view != view:
            self._outputs = torch.from_numpy(np.load(self.file(view), allow_pickle=False)).to(chosen.device)
            self._view = view
        return self._outputs.index_select(0, chosen).float()


LOWEST = -6e4
"""About the lowest float16: a class that a network rules out by -1e9 is as impossible here, and no infinity."""


def _below_largest(logits: Tensor) -> Tensor:
    return (logits.float() - logits.float().amax(-1, keepdim=True)).clamp_min(LOWEST).half()
