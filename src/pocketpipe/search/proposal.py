"""From a point of the search space to a plan on the budget. Pure functions of profile, limits and parameters."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pocketpipe.budget import Limits
from pocketpipe.cost import Cost
from pocketpipe.errors import UserError
from pocketpipe.plan import CompressionPlan, Step
from pocketpipe.profile import NetworkProfile
from pocketpipe.search.space import between, joint_space, point_at, proposed

Methods = Sequence[Step]
"""Steps with what the user has set; the rest is open, and search fills it in."""
CLOSE_ENOUGH = 0.98
"""Share of the binding limit at which sharing a budget between methods stops."""
SHARING_ROUNDS = 8
SHOWS = 0.5
"""Share of what a step saves in the end that its own prediction has to show, for it to project itself."""
BISECTIONS = 40


def as_proposed(methods: Methods, parameters: Mapping[str, Any], profile: NetworkProfile) -> CompressionPlan:
    """The plan that `parameters` stand for, in the order of `methods`, whatever it costs."""
    steps = []
    for method in methods:
        steps.append(proposed(method, parameters, profile))
        profile = steps[-1].predict(profile)
    return CompressionPlan(tuple(steps))


def on_budget(
    methods: Methods, parameters: Mapping[str, Any], profile: NetworkProfile, limits: Limits
) -> CompressionPlan:
    """The plan nearest to `parameters` that keeps `limits`, as close under them as its steps can.

    A step that is followed by others gets the limits that leave those their proposed share; the last step closes
    the gap. Raises UserError if the proposal cannot be brought under the limits (OverBudget if a step says that it is).
    """
    steps: list[Step] = []
    before = profile
    for position, method in enumerate(methods):
        steps.append(_projected(method, methods[position + 1 :], parameters, before, limits))
        before = steps[-1].predict(before)
    plan = CompressionPlan(tuple(steps))
    refuse_over_budget(plan, profile, limits)
    return plan


def _projected(
    method: Step, rest: Methods, parameters: Mapping[str, Any], profile: NetworkProfile, limits: Limits
) -> Step:
    """The step of one method so that after `rest`, as proposed, the limits are just kept."""

    def at(parameters: Mapping[str, Any]) -> Step:
        return proposed(method, parameters, profile)

    def ends_at(step: Step) -> Cost:
        after = step.predict(profile)
        return as_proposed(rest, parameters, after).predict(after).cost()

    if not rest:
        return at(parameters).project(profile, limits)
    ends = [at(shrunk([method], profile, fraction)) for fraction in (0.0, 1.0)]
    saved_here = _saved(*(step.predict(profile).cost() for step in ends), limits)
    saved_at_the_end = _saved(*map(ends_at, ends), limits)
    if all(saved_here[name] >= SHOWS * saved for name, saved in saved_at_the_end.items()):
        answers = [name for name, saved in saved_here.items() if saved > 0]  # later steps see to the others
        return _with_share(at(parameters), ends_at, profile, limits, answers)
    return _along_its_range(method, parameters, profile, lambda point: limits.keeps(ends_at(at(point))))


def _saved(large: Cost, small: Cost, limits: Limits) -> dict[str, int]:
    """By each cost that is limited."""
    return {name: getattr(large, name) - getattr(small, name) for name in limits.given()}


def _along_its_range(
    method: Step, parameters: Mapping[str, Any], profile: NetworkProfile, kept: Callable[[Mapping[str, Any]], bool]
) -> Step:
    """The step at the largest parameters that are `kept`, on the way from the smallest through those proposed.

    For a step whose saving shows only behind later ones, so that it cannot project itself: a table of integers saves
    flash where quantization makes all else integers.
    """
    space = joint_space([method], profile)
    largest, smallest = (shrunk([method], profile, fraction) for fraction in (0.0, 1.0))
    middle = parameters if space.keys() <= parameters.keys() else between(space, smallest, largest, 0.5)

    def point(way: float) -> dict[str, Any]:
        """0: the smallest, 1: as proposed (halfway, if blocks that went left other parameters), 2: the largest."""
        return between(space, middle, smallest, 1 - way) if way < 1 else between(space, middle, largest, way - 1)

    under, over = 0.0, 2.0
    if kept(point(over)):
        return proposed(method, point(over), profile)
    for _ in range(BISECTIONS):
        way = (under + over) / 2
        under, over = (way, over) if kept(point(way)) else (under, way)
    return proposed(method, point(under), profile)


def _with_share(
    step: Step, ends_at: Callable[[Step], Cost], profile: NetworkProfile, limits: Limits, answers: Sequence[str]
) -> Step:
    """`step` projected so that what it ends at just keeps the limits, by its share of those that it `answers` to.

    The best of all rounds: a step of coarse parts (whole blocks) may come to lie above and below in turn. A share that
    it cannot save at all is left to later steps, which may save more than they were to.
    """

    def projected_onto(share: Limits) -> Step:
        try:
            return step.project(profile, share)
        except UserError:
            possible = [name for name in share.given() if _can_be_projected(step, profile, share.only(name))]
            if len(possible) == len(share.given()):
                raise
            return step.project(profile, share.only(*possible))

    def share_of(here: Cost, end: Cost) -> Limits:
        return _rescaled(limits, here, end).only(*answers)

    def merit(found: tuple[Step, Cost]) -> tuple[bool, float]:
        usage = limits.usage(found[1])
        return (True, usage) if limits.keeps(found[1]) else (False, -usage)

    rounds: list[tuple[Step, Cost]] = []
    share = share_of(step.predict(profile).cost(), ends_at(step))
    for _ in range(SHARING_ROUNDS):
        projected = projected_onto(share)
        end = ends_at(projected)
        rounds.append((projected, end))
        if CLOSE_ENOUGH <= limits.usage(end) <= 1:
            break
        share = share_of(_as_cost(share, end), end)
    return max(rounds, key=merit)[0]


def _can_be_projected(step: Step, profile: NetworkProfile, limits: Limits) -> bool:
    try:
        step.project(profile, limits)
    except UserError:
        return False
    return True


def _rescaled(limits: Limits, here: Cost, end: Cost) -> Limits:
    """The limits for here, if `here` becomes `end` and the end has to keep `limits`."""

    def share(name: str, limit: int) -> int:
        return int(limit * getattr(here, name) / getattr(end, name))

    return Limits.model_validate({name: share(name, limit) for name, limit in limits.given().items()})


def _as_cost(limits: Limits, filler: Cost) -> Cost:
    return filler.model_copy(update=limits.given())


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
        return aimed - 2 * max(0, getattr(cost, name) - getattr(limits, name))

    return Limits.model_validate({name: lowered(name, aimed) for name, aimed in aim.given().items()})


def shrunk(methods: Methods, profile: NetworkProfile, fraction: float) -> dict[str, Any]:
    """Parameters at the same fraction of their way from the largest (0) to the smallest (1) setting.

    Which end of a method's ranges is the small one is found by its predicted cost.
    """
    parameters: dict[str, Any] = {}
    for method in methods:
        space = joint_space([method], profile)
        low, high = (_size(method, point_at(space, end), profile) for end in (0.0, 1.0))
        parameters |= point_at(space, 1.0 - fraction if low <= high else fraction)
    return parameters


def _size(method: Step, parameters: Mapping[str, Any], profile: NetworkProfile) -> tuple[int, int]:
    cost = as_proposed([method], parameters, profile).predict(profile).cost()
    return cost.macs, cost.file_bytes


def uniform_parameters(methods: Methods, profile: NetworkProfile, limits: Limits) -> dict[str, Any]:
    """The largest uniform setting that keeps `limits`: the same fraction everywhere, found by bisection.

    Raises UserError if not even the smallest does.
    """

    def cost(fraction: float) -> Cost:
        return as_proposed(methods, shrunk(methods, profile, fraction), profile).predict(profile).cost()

    if not limits.keeps(cost(1.0)):
        kinds = ", ".join(method.kind for method in methods)
        raise UserError(f"budget: methods [{kinds}] at their smallest: {limits.over(cost(1.0))}")
    over, under = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (over + under) / 2
        over, under = (over, middle) if limits.keeps(cost(middle)) else (middle, under)
    return shrunk(methods, profile, under)


def relaxed(limits: Limits, dense: Cost, fraction: float) -> Limits:
    """The limits a `fraction` of the way from `dense` to `limits`, counted in times smaller.

    >>> relaxed(Limits(macs=400), Cost(macs=1000, parameters=1, file_bytes=1), 0.5).macs  # 1 + 1.5 / 2 = 1.75 times
    571
    """

    def on_the_way(name: str, limit: int) -> int:
        whole = getattr(dense, name)
        return max(limit, int(whole / (1 + fraction * (whole / limit - 1))))

    return Limits.model_validate({name: on_the_way(name, limit) for name, limit in limits.given().items()})
