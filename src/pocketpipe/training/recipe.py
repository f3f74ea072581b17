"""How a network is trained: the recipe (what decides the weights) and the trainer (where and how fast)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pocketpipe.doors import Value
from pocketpipe.training.distilling import Decoupled, Distillation, Share
from pocketpipe.training.mixing import Mixing
from pocketpipe.training.resizing import ProgressiveResizing


class TrainerSettings(Value):
    """Where training runs: processes, device, number format.

    >>> TrainerSettings(devices=2).ranks
    2
    """

    devices: Annotated[int, Field(ge=1)] = 1
    """Processes a node, one for each GPU; on CPU they share the cores."""
    nodes: Annotated[int, Field(ge=1)] = 1
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """auto: bf16 autocast where the device computes it natively and the network is large enough to gain."""
    compile: Literal["auto", "always", "never"] = "auto"
    """auto: `torch.compile` where a C++ compiler is there and the training is long enough to pay for it."""
    threads: Annotated[int, Field(ge=1)] | None = None
    """CPU threads of all processes of a node together; null = one a process where its batch is too small to be shared
    among several, otherwise all cores."""

    @property
    def ranks(self) -> int:
        """Processes on all nodes together."""
        return self.devices * self.nodes


class GroupSparsity(Value):
    """Group lasso on coupled channels, so that those that will be cut have little left to say.

    See `pocketpipe.compression.group_sparsity`.
    """

    strength: Annotated[float, Field(gt=0.0)]
    """Factor of the penalty in the loss."""
    grows: Share = 0.5
    """Share of the training over which the strength rises from 0 (growing regularization)."""
    focus: Annotated[float, Field(ge=0.0)] = 4.0
    """The weakest channel of a group is pulled 2^focus times as hard as its strongest; 0 = all alike."""


class Auxiliary(Value):
    """Classifiers along the network, trained with it, so that what later layers read still tells the classes apart.

    See `pocketpipe.training.auxiliary`.
    """

    weight: Annotated[float, Field(gt=0.0)] = 1.0
    """Of the mean of their losses, beside the network's own."""
    points: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Modules of the network whose maps they read; null = the last of each size of maps, but the last size."""


class Recipe(Value):
    """The last epoch's weights are the result.

    >>> Recipe(epochs=10, batch_size=64, learning_rate=0.1, warmup_epochs=10)
    Traceback (most recent call last):
    pydantic_core._pydantic_core.ValidationError: 1 validation error for Recipe
    ...
    """

    epochs: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)]
    """Examples a step, over all processes together."""
    learning_rate: Annotated[float, Field(gt=0.0)]
    """The peak of the schedule."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """sgd: with Nesterov momentum. adamw: for what is trained with it as a rule (attention, ConvNeXt), at some 1e-3."""
    clip_norm: Annotated[float, Field(gt=0.0)] | None = None
    """Gradients are scaled down to this norm, over all parameters together, where theirs is larger."""
    schedule: Literal["one_cycle", "cosine"] = "one_cycle"
    """cosine: linear warm-up from 0, then a half cosine to 0. one_cycle: cosines up from peak/25 and down to 0."""
    warmup_epochs: Annotated[float, Field(ge=0.0)] = 1.0
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    """Of adamw the decay of the gradients' average (beta 1; beta 2 is 0.999)."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 5e-4
    """On weights of two axes or more: not on biases and normalization."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    ema: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Decay of an exponential moving average of the weights, which is then the result; null = none."""
    ema_statistics: Literal["averaged", "reestimated"] = "averaged"
    """BatchNorm's statistics of the averaged weights: averaged like them, or measured anew on training examples."""
    distillation: Distillation | None = None
    group_sparsity: GroupSparsity | None = None
    auxiliary: Auxiliary | None = None
    progressive_resizing: ProgressiveResizing | None = None
    """null = whole images from the first step."""
    mixing: Mixing | None = None
    """Inputs that show two examples; null = each shows its own."""

    @model_validator(mode="after")
    def _warms_up_before_the_end(self) -> Recipe:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs {self.warmup_epochs:g} must be below epochs {self.epochs}; set both (conf/base has "
                "what a recipe leaves out)"
            )
        return self

    @model_validator(mode="after")
    def _statistics_of_an_average(self) -> Recipe:
        if self.ema_statistics == "reestimated" and self.ema is None:
            raise ValueError("ema_statistics: there is no average whose statistics they are; set ema (0.999, say)")
        return self

    @model_validator(mode="after")
    def _features_of_one_size(self) -> Recipe:
        if self.progressive_resizing and self.distillation and self.distillation.features:
            raise ValueError("progressive_resizing: distillation.features compares maps of one size; set one to null")
        return self

    @model_validator(mode="after")
    def _no_one_class_in_mixtures(self) -> Recipe:
        if self.mixing is None or self.distillation is None or self.distillation.weight == 0:
            return self
        if self.distillation.mistakes == "corrected":
            raise ValueError("mixing: of two examples in one neither is a mistake; set distillation.mistakes to kept")
        if isinstance(self.distillation.outputs, Decoupled):
            raise ValueError("mixing: dkd looks at one class an example; set distillation.outputs to {kind: logits}")
        return self

    def uneven(self, trainer: TrainerSettings) -> str | None:
        """What is wrong if the processes cannot share a batch evenly."""
        if self.batch_size % trainer.ranks == 0:
            return None
        return (
            f"batch_size {self.batch_size} cannot be shared evenly among {trainer.ranks} processes (trainer.devices x "
            f"trainer.nodes); choose a multiple of {trainer.ranks}"
        )

    @property
    def plain(self) -> Recipe:
        """One training, without what a stage's own recipe says besides."""
        return Recipe(**{name: getattr(self, name) for name in Recipe.model_fields})


class TeacherRecipe(Recipe):
    """A recipe for the network at full size."""

    given_weights: Literal["final", "start"] = "final"
    """What `network.weights` are, if given: the teacher as it is, so that nothing is trained; or where its training
    starts."""


class SparsifyRecipe(Recipe):
    """A recipe for the network that the search will cut: it drives channels to zero, or has them tell classes apart."""

    @model_validator(mode="after")
    def _prepares_the_cut(self) -> SparsifyRecipe:
        if self.group_sparsity is None and self.auxiliary is None:
            raise ValueError("set group_sparsity or auxiliary, which prepare the cut; or sparsify to null")
        return self


class ByPortions(Value):
    """Staged pruning: cut a portion, train a little, cut the next."""

    by: Literal["portions"]
    count: Annotated[int, Field(ge=2)]
    """Portions of each step of the plan that can be carried out in portions."""
    epochs: Annotated[int, Field(ge=1)]
    """Of the training after each portion but the last, which the whole fine-tuning follows."""
    learning_rate: Annotated[float, Field(gt=0.0)] | None = None
    """Its peak; null = that of the fine-tuning."""


class ByLayers(Value):
    """Group fine-tuning (PocketFlow): cut the next layers, train a little, go on."""

    by: Literal["layers"]
    every: Annotated[int, Field(ge=1)]
    """Layers that are cut at once."""
    epochs: Annotated[int, Field(ge=1)]
    learning_rate: Annotated[float, Field(gt=0.0)] | None = None


Stages = ByPortions | ByLayers


class FinetuneRecipe(Recipe):
    """A recipe for the network that a plan makes; the plan may be carried out in stages.

    >>> recipe = FinetuneRecipe(epochs=8, batch_size=64, learning_rate=0.1, warmup_epochs=2,
    ...                         stages={"by": "portions", "count": 3, "epochs": 2})
    >>> recipe.between_stages(recipe.stages).warmup_epochs
    0.5
    """

    stages: Annotated[Stages, Field(discriminator="by")] | None = None
    """null = all at once."""

    def between_stages(self, stages: Stages) -> Recipe:
        """The short training after each cut but the last: the same, warmed up for the same share of its length."""
        return self.plain.model_copy(
            update={
                "epochs": stages.epochs,
                "warmup_epochs": self.warmup_epochs * stages.epochs / self.epochs,
                "learning_rate": stages.learning_rate or self.learning_rate,
            }
        )
