"""From a point of the search space to a plan on the budget. Pure functions of profile, limits and parameters."""

from collections.abc import Mapping
from typing import Any

from pocketpipe.budget import Limits, farthest
from pocketpipe.cost import Cost
from pocketpipe.errors import UserError
from pocketpipe.plan import CompressionPlan, Step
from pocketpipe.profile import NetworkProfile
from pocketpipe.search.sharing import Sharing
from pocketpipe.search.space import (
    Methods,
    as_proposed,
    between,
    has_an_order,
    joint_parameters,
    joint_space,
    own_parameters,
    shrunk,
)


def on_budget(
    methods: Methods, parameters: Mapping[str, Any], profile: NetworkProfile, limits: Limits
) -> CompressionPlan:
    """The plan nearest to `parameters` that keeps `limits`, as close under them as its steps can.

    A step that is followed by others gets the limits that leave those their proposed share; the last step closes
    the gap. Raises UserError if the proposal cannot be brought under the limits.
    """
    steps: list[Step] = []
    before = profile
    for position, method in enumerate(methods):
        steps.append(Sharing(method, methods[position + 1 :], parameters, before, limits).step())
        before = steps[-1].predict(before)
    plan = CompressionPlan(tuple(steps))
    refuse_over_budget(plan, profile, limits)
    return plan


class OverBudget(UserError):
    """A plan costs more than its limits allow, though its steps were projected onto them."""

    def __init__(self, message: str, cost: Cost) -> None:
        super().__init__(message)
        self.cost = cost


def refuse_over_budget(plan: CompressionPlan, profile: NetworkProfile, limits: Limits) -> None:
    """Raise OverBudget if `plan` exceeds `limits`: a step may project wrongly, or cost more once it is pinned."""
    cost = plan.predict(profile).cost()
    if not limits.keeps(cost):
        kinds = ", ".join(step.kind for step in plan.steps)
        line = f"plan ({kinds}): {limits.over(cost)} after projection; a step's project or pin is wrong"
        raise OverBudget(line, cost)


def tightened(aim: Limits, limits: Limits, cost: Cost) -> Limits:
    """What to aim at where `aim` ended at a `cost` above `limits`: lower by twice what it exceeds.

    >>> cost = Cost(macs=110, parameters=1, file_bytes=1)
    >>> tightened(Limits(macs=100), Limits(macs=100), cost).macs
    80
    """

    def lowered(name: str, aimed: int) -> int:
        excess: int = getattr(cost, name) - getattr(limits, name)
        return aimed - 2 * max(0, excess)

    return Limits.model_validate({name: lowered(name, aimed) for name, aimed in aim.given().items()})


def uniform_parameters(methods: Methods, profile: NetworkProfile, limits: Limits) -> dict[str, Any]:
    """The largest uniform setting that keeps `limits`: the same fraction everywhere, found by bisection.

    Methods that make no difference to what is limited stay at their largest: less would cost accuracy for nothing.
    Raises UserError if not even the smallest does.
    """
    space = joint_space(methods, profile)
    largest, smallest = (shrunk(methods, profile, end) for end in (0.0, 1.0))
    held = held_parameters(methods, profile, limits)

    def at(fraction: float) -> dict[str, Any]:
        return {**between(space, largest, smallest, fraction), **held}

    def cost(fraction: float) -> Cost:
        return as_proposed(methods, at(fraction), profile).predict(profile).cost()

    if not limits.keeps(cost(1.0)):
        kinds = ", ".join(method.kind for method in methods)
        raise UserError(f"budget: methods [{kinds}] at their smallest: {limits.over(cost(1.0))}")
    return at(farthest(lambda fraction: limits.keeps(cost(fraction)), 1.0, 0.0))


def held_parameters(methods: Methods, profile: NetworkProfile, limits: Limits) -> dict[str, Any]:
    """The largest parameters of methods that change no cost that is limited, whether the others are large or small.

    Without choices among names: none of these is the largest.
    """
    space = joint_space(methods, profile)
    largest, smallest = (shrunk(methods, profile, end) for end in (0.0, 1.0))

    def costs(parameters: Mapping[str, Any]) -> list[int | None]:
        cost = as_proposed(methods, parameters, profile).predict(profile).cost()
        return [getattr(cost, name) for name in limits.given()]

    most, fewest = costs(largest), costs(smallest)
    held: dict[str, Any] = {}
    for method in methods:
        own = joint_parameters(own_parameters(largest, method.kind), method.kind)
        least = joint_parameters(own_parameters(smallest, method.kind), method.kind)
        if costs({**largest, **least}) == most and costs({**smallest, **own}) == fewest:
            held |= {key: value for key, value in own.items() if has_an_order(space[key]["_value"])}
    return held


def relaxed(limits: Limits, dense: Cost, fraction: float) -> Limits:
    """The limits a `fraction` of the way from `dense` to `limits`, counted in times smaller.

    >>> relaxed(Limits(macs=400), Cost(macs=1000, parameters=1, file_bytes=1), 0.5).macs  # 1 + 1.5 / 2 = 1.75 times
    571
    """

    def on_the_way(name: str, limit: int) -> int:
        whole = getattr(dense, name)
        return max(limit, int(whole / (1 + fraction * (whole / limit - 1))))

    return Limits.model_validate({name: on_the_way(name, limit) for name, limit in limits.given().items()})
