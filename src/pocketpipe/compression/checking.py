"""Whether a step does what it says: for the tests of steps of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pocketpipe.compression.tracing import profile_of
from pocketpipe.errors import Mistakes, UserError
from pocketpipe.plan import CompressionPlan, Step

if TYPE_CHECKING:
    from torch import nn

    from pocketpipe.profile import NetworkProfile
    from pocketpipe.task import Split, Task

MOST_NAMES = 5
"""That a line lists."""


def check_step(step: Step, network: nn.Module, task: Task, data: Split) -> None:
    """Carry `step` out on `network` and hold the profile that it predicts against the one that tracing finds.

    Compared are MACs, parameters, and the names of layers and groups of channels, by which later steps go. Raises
    Mistakes, a line for each difference; UserError for a step that brings integers. Bytes are not compared: what
    tracing cannot see of them is the step's to say.
    """
    if step.brings_integers:
        raise UserError(
            f"{step.kind}: it brings integers, and such a network is not traced again; hold predict against the "
            "exported file"
        )
    made, plan = CompressionPlan((step,)).carry_out(network, task, data)
    promised = plan.predict(profile_of(network, task.input_shape))
    found = profile_of(made, task.input_shape)
    if lines := list(_differences(promised, found)):
        raise Mistakes([f"{step.kind}: {line}" for line in lines])


def _differences(promised: NetworkProfile, found: NetworkProfile) -> Iterator[str]:
    for what in ("macs", "parameters"):
        said, is_so = getattr(promised.cost(), what), getattr(found.cost(), what)
        if said != is_so:
            yield f"predict says {said:,} {what}, the network that apply makes has {is_so:,}"
    layers = [{layer.name for layer in profile.layers} for profile in (promised, found)]
    groups = [{group.name for group in profile.groups} for profile in (promised, found)]
    for what, (said, are) in (("layers", layers), ("groups, each called by its first layer", groups)):
        if said != are:
            yield (
                f"{what}: predict has {_listed(said - are)} that apply's network has not, and leaves out "
                f"{_listed(are - said)}; later steps go by these names"
            )


def _listed(names: set[str]) -> str:
    shown = [*map(repr, sorted(names)[:MOST_NAMES]), *(["..."] if len(names) > MOST_NAMES else [])]
    return ", ".join(shown) or "none"
