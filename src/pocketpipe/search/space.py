"""The joint search space of several methods, and points in it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pocketpipe.errors import UserError
from pocketpipe.plan import CompressionPlan, Step
from pocketpipe.profile import NetworkProfile
from pocketpipe.search.tuners.base import SearchSpace

Methods = Sequence[Step]
"""Steps with what the user has set; the rest is open, and search fills it in."""


def joint_space(methods: Sequence[Step], profile: NetworkProfile) -> SearchSpace:
    """The spaces of all methods as one; each key is prefixed with its method's kind (`channels/conv1`).

    Fields that the user has set are not in it, nor what a method before leaves nothing to say about.
    """
    return {key: entry for method, met in _in_turn(methods, profile) for key, entry in _space(method, met).items()}


def _in_turn(methods: Methods, profile: NetworkProfile) -> Iterator[tuple[Step, NetworkProfile]]:
    """Each method with what those before it leave of the network, at their largest."""
    for place, method in enumerate(methods):
        if place:
            before = methods[place - 1]
            profile = proposed(before, _shrunk(before, profile, 0.0), profile).predict(profile)
        yield method, profile


def _space(method: Step, profile: NetworkProfile) -> SearchSpace:
    space = sorted(method.space(profile).items())
    return {f"{method.kind}/{key}": entry for key, entry in space if key not in method.model_fields_set}


def proposed(method: Step, parameters: Mapping[str, Any], profile: NetworkProfile) -> Step:
    """One method's step at a point of the joint space, with the fields that the user has set as they are."""
    fixed = {key: getattr(method, key) for key in method.space(profile) if key in method.model_fields_set}
    return method.proposed({**own_parameters(parameters, method.kind), **fixed}, profile)


def joint_parameters(parameters: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """One method's parameters with the keys of the joint space; what `own_parameters` undoes."""
    return {f"{kind}/{key}": value for key, value in parameters.items()}


def own_parameters(parameters: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The part of a joint proposal that belongs to one method, with its own keys."""
    prefix = f"{kind}/"
    return {key.removeprefix(prefix): value for key, value in parameters.items() if key.startswith(prefix)}


def as_proposed(methods: Methods, parameters: Mapping[str, Any], profile: NetworkProfile) -> CompressionPlan:
    """The plan that `parameters` stand for, in the order of `methods`, whatever it costs."""
    steps = []
    for method in methods:
        steps.append(proposed(method, parameters, profile))
        profile = steps[-1].predict(profile)
    return CompressionPlan(tuple(steps))


def point_at(space: SearchSpace, fraction: float) -> dict[str, Any]:
    """Every parameter at the same fraction (0..1) of its range; names to choose from have none, the first is taken.

    >>> space = {"a": {"_type": "uniform", "_value": [0.0, 2.0]}, "b": {"_type": "choice", "_value": [8, 4, 2]}}
    >>> point_at(space, 0.5)
    {'a': 1.0, 'b': 4}
    """
    return {key: _at(key, entry["_type"], entry["_value"], fraction) for key, entry in space.items()}


def shrunk(methods: Methods, profile: NetworkProfile, fraction: float) -> dict[str, Any]:
    """Parameters at the same fraction of their way from the largest (0) to the smallest (1) setting.

    Which end of a method's ranges is the small one is found by its predicted cost.
    """
    parameters: dict[str, Any] = {}
    for method, met in _in_turn(methods, profile):
        parameters |= _shrunk(method, met, fraction)
    return parameters


def _shrunk(method: Step, profile: NetworkProfile, fraction: float) -> dict[str, Any]:
    space = _space(method, profile)
    low, high = (_size(method, point_at(space, end), profile) for end in (0.0, 1.0))
    return point_at(space, 1.0 - fraction if low <= high else fraction)


def _size(method: Step, parameters: Mapping[str, Any], profile: NetworkProfile) -> tuple[int, ...]:
    cost = as_proposed([method], parameters, profile).predict(profile).cost()
    return cost.macs, cost.file_bytes, cost.flash_bytes or 0, cost.peak_ram_bytes or 0  # not known: the same for all


def between(space: SearchSpace, start: Mapping[str, Any], end: Mapping[str, Any], way: float) -> dict[str, Any]:
    """Every parameter of `space` the share `way` (0..1) of its way from one point to another; a name stays the first's.

    >>> space = {"a": {"_type": "uniform", "_value": [0.0, 2.0]}, "b": {"_type": "choice", "_value": [8, 4, 2]}}
    >>> between(space, {"a": 0.0, "b": 8}, {"a": 1.0, "b": 2}, 0.5)
    {'a': 0.5, 'b': 4}
    """

    def fraction(key: str, point: Mapping[str, Any]) -> float:
        return _fraction(space[key]["_type"], space[key]["_value"], point[key])

    return {
        key: _at(key, entry["_type"], entry["_value"], (1 - way) * fraction(key, start) + way * fraction(key, end))
        if has_an_order(entry["_value"])
        else start[key]
        for key, entry in space.items()
    }


def one_nearer(entry: Mapping[str, Any], value: Any, end: Any) -> Any:
    """The choice of a parameter that is next to `value` on the way to `end`; `value` where there is nothing between.

    >>> one_nearer({"_type": "choice", "_value": [8, 4, 2]}, 2, 8)
    4
    """
    if entry["_type"] != "choice" or not has_an_order(entry["_value"]):
        return value
    place, goal = entry["_value"].index(value), entry["_value"].index(end)
    return entry["_value"][place + (goal > place) - (goal < place)]


def has_an_order(choices: list[Any]) -> bool:
    """Whether what there is to choose from goes from small to large: numbers do, names do not."""
    return not any(isinstance(choice, str) for choice in choices)


def _fraction(kind: str, bounds: list[Any], value: Any) -> float:
    """Where in its range a value lies: what `_at` undoes."""
    if kind == "choice":
        return bounds.index(value) / max(1, len(bounds) - 1)
    low, high = float(bounds[0]), float(bounds[1]) - (kind == "randint")
    if kind == "loguniform":
        low, high, value = math.log(low), math.log(high), math.log(value)
    return (value - low) / (high - low) if high > low else 0.0


def _at(key: str, kind: str, bounds: list[Any], fraction: float) -> Any:
    if kind == "choice":
        return bounds[round(fraction * (len(bounds) - 1))] if has_an_order(bounds) else bounds[0]
    low, high = float(bounds[0]), float(bounds[1])
    match kind:
        case "uniform":
            return low + fraction * (high - low)
        case "quniform":
            return min(max(round((low + fraction * (high - low)) / bounds[2]) * bounds[2], low), high)
        case "loguniform":
            return math.exp(math.log(low) + fraction * (math.log(high) - math.log(low)))
        case "randint":
            return round(low + fraction * (high - 1 - low))
    raise UserError(
        f"search space: {key!r} has type {kind!r}; allowed: uniform, quniform, loguniform, randint, choice "
        "(all bounded, so that a smallest plan exists)"
    )
