"""How a network is trained: the recipe (what decides the weights) and the trainer (where and how fast)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pocketpipe.doors import Value

Share = Annotated[float, Field(ge=0.0, le=1.0)]


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


class Distillation(Value):
    """Learning from a teacher (Hinton et al. 2015): loss = (1 - weight) * task's + weight * distance to the teacher."""

    weight: Share = 0.9
    temperature: Annotated[float, Field(gt=0.0)] = 4.0


class Recipe(Value):
    """SGD with Nesterov momentum; the last epoch's weights are the result.

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
    schedule: Literal["one_cycle", "cosine"] = "one_cycle"
    """cosine: linear warm-up from 0, then a half cosine to 0. one_cycle: cosines up from peak/25 and down to 0."""
    warmup_epochs: Annotated[float, Field(ge=0.0)] = 1.0
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    weight_decay: Annotated[float, Field(ge=0.0)] = 5e-4
    """On weights of two axes or more: not on biases and normalization."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    ema: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Decay of an exponential moving average of the weights, which is then the result; null = none."""
    distillation: Distillation | None = None

    @model_validator(mode="after")
    def _warms_up_before_the_end(self) -> Recipe:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs:g} must be below epochs {self.epochs}")
        return self
