"""A user's own compression step: every group of channels keeps the same share."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field
from torch import nn

from pocketpipe.budget import Limits
from pocketpipe.compression.channels import ChannelsStep
from pocketpipe.errors import UserError
from pocketpipe.plan import Step
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
