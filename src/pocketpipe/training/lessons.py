"""How a training comes by what its teachers say: asked about every batch, or about a few views once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from pocketpipe.training.batches import Batch
from pocketpipe.training.features import Response
from pocketpipe.training.taught import TaughtViews
from pocketpipe.training.teachers import Teachers


@dataclass(frozen=True)
class Lessons:
    """Teachers, and where their outputs are kept if they are asked only once about each view."""

    teachers: Teachers
    points: tuple[str, ...] = ()
    """Modules of the student whose features are compared."""
    cache: TaughtViews | None = None

    def prepare(self, view: int, parts: Iterable[Tensor]) -> None:
        """Have the outputs for a view: `parts` are its prepared inputs, in the order of the split."""
        if self.cache is not None:
            self.cache.make(view, parts, lambda inputs: self.teachers(inputs).outputs)

    def on(self, batch: Batch, view: int) -> Response:
        """What the teachers say to a batch that shows `view`."""
        if self.cache is None:
            return self.teachers(batch.inputs)
        return Response(self.cache.of(view, batch.chosen))
