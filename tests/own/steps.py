"""A user's own compression steps: one makes a network smaller, one changes what weights may be, one other modules."""

import copy
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field
from torch import Tensor, nn

from pocketpipe.budget import Limits
from pocketpipe.compression.batchnorm import reestimate_on
from pocketpipe.compression.channels import ChannelsStep
from pocketpipe.compression.weights import lay_on
from pocketpipe.errors import UserError
from pocketpipe.plan import Costless, Step
from pocketpipe.profile import NetworkProfile
from pocketpipe.task import Split, Task


class Evenly(Step):
    """Keep `share` of every group's channels, the first ones: no criterion at all."""

    kind: ClassVar[str] = "own.steps:Evenly"
    share: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    widths: dict[str, int] = {}
    """Filled in when pinned."""

    def space(self, profile: NetworkProfile) -> dict[str, dict[str, Any]]:
        return {"share": {"_type": "uniform", "_value": [0.1, 1.0]}}

    def proposed(self, parameters: Mapping[str, Any], profile: NetworkProfile) -> Self:
        return self.model_copy(update={"share": parameters["share"]})

    def project(self, profile: NetworkProfile, limits: Limits) -> Self:
        for percent in range(100, 0, -1):
            step = self.model_copy(update={"share": percent / 100})
            if limits.keeps(step.predict(profile).cost()):
                return step
        raise UserError("Evenly: one per cent of the channels is still too many")

    def predict(self, profile: NetworkProfile) -> NetworkProfile:
        return profile.narrowed(self._widths(profile))

    def pin(self, network: nn.Module, task: Task, data: Split) -> Self:
        from pocketpipe.compression.tracing import profile_of

        return self.model_copy(update={"widths": self._widths(profile_of(network, task.input_shape))})

    def apply(self, network: nn.Module, task: Task) -> nn.Module:
        channels = {group: tuple(range(width)) for group, width in self.widths.items()}
        return ChannelsStep(widths=self.widths, channels=channels).apply(network, task)

    def _widths(self, profile: NetworkProfile) -> dict[str, int]:
        return {group.name: max(1, int(self.share * group.channels)) for group in profile.slimmable}


class OnGrid(nn.Module):
    """Lies on a weight: the network computes with multiples of 1 / grid, training moves what is beneath."""

    def __init__(self, grid: int) -> None:
        super().__init__()
        self.grid = grid

    def forward(self, weight: Tensor) -> Tensor:
        rounded = (weight * self.grid).round() / self.grid
        return weight + (rounded - weight).detach() if self.training else rounded  # gradients pass straight through


class Rounded(Costless):
    """Weights of linear layers are multiples of 1 / grid, and stay so while the network is trained."""

    kind: ClassVar[str] = "own.steps:Rounded"
    grid: Annotated[int, Field(gt=0)] = 64

    def apply(self, network: nn.Module, task: Task) -> nn.Module:
        changed = copy.deepcopy(network)
        for name, module in network.named_modules():
            if isinstance(module, nn.Linear):
                lay_on(changed, name, OnGrid(self.grid))
        return changed


class Clipped(Costless):
    """Each nn.ReLU becomes a ReLU6, beyond whose results no range of a quantization needs to go."""

    kind: ClassVar[str] = "own.steps:Clipped"

    def apply(self, network: nn.Module, task: Task) -> nn.Module:
        changed = copy.deepcopy(network)
        places = [name for name, module in changed.named_modules(remove_duplicate=False) if type(module) is nn.ReLU]
        if not places:
            raise UserError("Clipped: no nn.ReLU in the network; calls of functional.relu are not seen")
        for name in places:  # a module under two names, too
            changed.set_submodule(name, nn.ReLU6())
        return changed

    def calibrate(self, network: nn.Module, before: nn.Module, task: Task, data: Split) -> None:
        reestimate_on(network, task, data)
