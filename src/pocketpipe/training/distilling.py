"""The `distillation` part of a recipe: what is learned from teachers, and from which."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from pocketpipe.doors import Value
from pocketpipe.errors import UserError
from pocketpipe.hashing import file_digest
from pocketpipe.network import NetworkChoice

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Factor = Annotated[float, Field(gt=0.0)]
Points = Annotated[tuple[str, ...], Field(min_length=1)] | None
"""Paths of modules whose outputs are compared; null = found: the last one of each resolution."""


class Logits(Value):
    """Outputs as a whole (Hinton et al. 2015)."""

    kind: Literal["logits"] = "logits"


class Decoupled(Value):
    """DKD (Zhao et al. 2022): the target's share and the others among each other, each with a weight of its own."""

    kind: Literal["dkd"]
    alpha: Annotated[float, Field(ge=0.0)] = 1.0
    """Weight of the target's share."""
    beta: Annotated[float, Field(ge=0.0)] = 8.0
    """Weight of the others among each other."""
    warmup: Share = 0.1
    """Share of the training over which this grows from 0 (20 of 240 epochs in the paper)."""


class Attention(Value):
    """Attention transfer (Zagoruyko and Komodakis 2017): where in the image a feature map is strong."""

    kind: Literal["attention"]
    weight: Factor = 1.0
    """Beta / 2 of the paper, which divides it by the positions of a map besides: 0.5 on 32x32, 2 on 16x16, 8 on 8x8."""
    points: Points = None


class Hints(Value):
    """Hints (FitNets, Romero et al. 2015): the features, through a learned regressor where widths differ."""

    kind: Literal["hints"]
    weight: Factor = 1.0
    points: Points = None


class FurtherTeacher(NetworkChoice):
    """A teacher beside the pipeline's own; a relative path counts from the data root."""

    weights: Path

    def path(self, data_root: Path) -> Path:
        """The weights file."""
        return data_root / self.weights.expanduser()

    def digest(self, data_root: Path) -> str:
        """SHA-256 of the weights file."""
        return file_digest(self.path(data_root))


class Distillation(Value):
    """Learning from teachers: loss = (1 - weight) * the task's + weight * distance of outputs + distance of features.

    >>> Distillation(outputs={"kind": "dkd"}).outputs.beta
    8.0
    """

    weight: Share = 0.9
    temperature: Factor = 4.0
    outputs: Annotated[Logits | Decoupled, Field(discriminator="kind")] = Logits()
    mistakes: Literal["kept", "corrected"] = "kept"
    """What is learned of an example that the teachers get wrong: their outputs, or these with the right class first."""
    features: Annotated[Attention | Hints, Field(discriminator="kind")] | None = None
    """Beside the outputs; from the pipeline's own teacher."""
    teachers: tuple[FurtherTeacher, ...] = ()
    """Further ones; what is learned is the mean of all softened outputs."""
    cached_views: Annotated[int, Field(ge=1)] | None = None
    """Show so many augmented views in turn and ask the teachers once about each; null = new views, asked every step."""

    def check(self, answer: tuple[int, ...], labels: int, targets: np.ndarray | None = None) -> None:
        """Raises UserError if `answer`, the shape of what a network says of one example, is no choice among labels, or
        if `targets` (N, ...), once they are known, name none.
        """
        if self.weight == 0 and self.features is not None:
            return  # nothing is softened
        if targets is not None and not (np.issubdtype(targets.dtype, np.integer) and targets.shape[1:] == answer[:-1]):
            raise UserError(
                f"distillation: outputs are softened, as of a choice among {labels} labels, but targets are "
                f"{targets.dtype} {targets.shape[1:]} for an example, no such choice; set distillation to null, or its "
                "weight to 0 and features to {kind: attention}"
            )
        by_class = isinstance(self.outputs, Decoupled) or self.mistakes == "corrected"
        if targets is not None and by_class and len(targets) and not 0 <= targets.min() <= targets.max() < labels:
            raise UserError(
                f"distillation: targets from {targets.min()} to {targets.max()} are not all of {labels} labels, which "
                "dkd and mistakes: corrected look at; set outputs to {kind: logits} and mistakes to kept"
            )
        if labels < 2 or answer[-1:] != (labels,):
            raise UserError(
                f"distillation: outputs are softened along the last axis, which must be the {labels} labels; they are "
                f"{answer} for an example; {_advice(answer, labels)}"
            )

    @model_validator(mode="after")
    def _features_are_not_cached(self) -> Distillation:
        if self.features is not None and self.cached_views is not None:
            raise ValueError("features are too large to be cached; set cached_views or features to null")
        return self


def _advice(answer: tuple[int, ...], labels: int) -> str:
    if labels > 1 and answer[:1] == (labels,):
        return "let the network end in a permute that puts them last, or set distillation to null"
    return "set distillation to null, or its weight to 0 and features to {kind: attention}"
