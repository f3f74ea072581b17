"""A network on paper, two methods for it, and a score whose optimum is known. No weights, no training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pocketpipe.budget import Limits
from pocketpipe.errors import UserError
from pocketpipe.plan import CompressionPlan, Step
from pocketpipe.profile import Axis, ChannelGroup, Layer, NetworkProfile
from pocketpipe.search.store import Tried

SMALLEST = 0.1


def chain(groups: int = 8, channels: int = 64) -> NetworkProfile:
    """A chain of 3x3 convolutions; layer i reads group i-1 and makes group i."""
    layers = []
    for index in range(groups):
        fan_in = Axis(fixed=3) if index == 0 else Axis(groups={f"g{index - 1}": 1})
        layers.append(
            Layer(
                name=f"conv{index}",
                operator="conv2d",
                weight=(Axis(groups={f"g{index}": 1}), fan_in, Axis(fixed=9)),
                positions=256,
                output_shape=(channels, 16, 16),
            )
        )
    groups_made = tuple(ChannelGroup(name=f"g{i}", channels=channels, members=(f"conv{i}",)) for i in range(groups))
    return NetworkProfile(input_shape=(3, 16, 16), layers=tuple(layers), groups=groups_made, file_overhead=2000)


class Unpinned(Step):
    """A step without open choices: pinning leaves it as it is, and there is no network to apply it to."""

    def pin(self, network: Any, task: Any, data: Any) -> Self:
        return self

    def apply(self, network: Any, task: Any) -> Any:
        raise NotImplementedError("a network on paper")


class Widths(Unpinned):
    """Keeps `widths` channels of each group; projection scales all keep ratios by one factor, then fills up."""

    kind: ClassVar[str] = "search.synthetic:Widths"
    widths: dict[str, int] = {}
    ratios: dict[str, float] = {}

    def space(self, profile: NetworkProfile) -> dict[str, dict[str, Any]]:
        return {group.name: {"_type": "uniform", "_value": [SMALLEST, 1.0]} for group in profile.slimmable}

    def proposed(self, parameters: Mapping[str, Any], profile: NetworkProfile) -> Self:
        return self.model_copy(update={"widths": _widths(profile, parameters, 1.0), "ratios": dict(parameters)})

    def project(self, profile: NetworkProfile, limits: Limits) -> Self:
        smallest = _widths(profile, dict.fromkeys(self.ratios, SMALLEST), 1.0)
        if not limits.keeps(profile.cost(smallest)):
            raise UserError("widths: out of reach")
        low, high = 0.0, 1.0 / min(self.ratios.values())
        for _ in range(50):
            middle = (low + high) / 2
            kept = limits.keeps(profile.cost(_widths(profile, self.ratios, middle)))
            low, high = (middle, high) if kept else (low, middle)
        return self.model_copy(update={"widths": _filled(profile, _widths(profile, self.ratios, low), limits)})

    def predict(self, profile: NetworkProfile) -> NetworkProfile:
        return profile.narrowed(self.widths)


class Bits(Unpinned):
    """Stores each parameter in 4, 2 or 1 bytes. Changes the file, not the MACs."""

    kind: ClassVar[str] = "search.synthetic:Bits"
    size: int = 4

    def space(self, profile: NetworkProfile) -> dict[str, dict[str, Any]]:
        return {"size": {"_type": "choice", "_value": [4, 2, 1]}}

    def proposed(self, parameters: Mapping[str, Any], profile: NetworkProfile) -> Self:
        return self.model_copy(update={"size": int(parameters["size"])})

    def project(self, profile: NetworkProfile, limits: Limits) -> Self:
        for size in (4, 2, 1):
            step = self.model_copy(update={"size": min(size, self.size)})
            if limits.keeps(step.predict(profile).cost()):
                return step
        raise UserError("bits: out of reach")

    def predict(self, profile: NetworkProfile) -> NetworkProfile:
        return profile.with_layers({layer.name: {"stored_bits": 8 * self.size} for layer in profile.layers})


def _widths(profile: NetworkProfile, ratios: Mapping[str, float], factor: float) -> dict[str, int]:
    return {
        group.name: max(1, round(group.channels * min(1.0, max(SMALLEST, factor * ratios[group.name]))))
        for group in profile.slimmable
    }


def _filled(profile: NetworkProfile, widths: dict[str, int], limits: Limits) -> dict[str, int]:
    """One channel more wherever it fits, again and again."""
    grew = True
    while grew:
        grew = False
        for group in profile.slimmable:
            wider = {**widths, group.name: widths[group.name] + 1}
            if wider[group.name] <= group.channels and limits.keeps(profile.cost(wider)):
                widths, grew = wider, True
    return widths


def sensitivities(profile: NetworkProfile) -> dict[str, float]:
    """How much each group's channels matter: from 1 to 8, so that uniform is not the best."""
    count = len(profile.slimmable)
    return {group.name: 8.0 ** (index / max(1, count - 1)) for index, group in enumerate(profile.slimmable)}


def score_of(plan: CompressionPlan, profile: NetworkProfile) -> float:
    """1 minus the weighted squared share of removed channels; 1.0 for the dense network."""
    left = profile.widths() | {
        name: w for step in plan.steps if isinstance(step, Widths) for name, w in step.widths.items()
    }
    weights = sensitivities(profile)
    loss = sum(weights[g.name] * (1 - left[g.name] / g.channels) ** 2 for g in profile.slimmable)
    return 1.0 - loss / sum(weights.values())


class Scorer:
    """A trial function that counts its calls."""

    def __init__(self, profile: NetworkProfile) -> None:
        self.profile = profile
        self.calls: list[str] = []

    def __call__(self, plan: CompressionPlan) -> Tried:
        self.calls.append(plan.to_json())
        score = score_of(plan, self.profile)
        assert math.isfinite(score)
        return Tried(plan=plan, score=score)
