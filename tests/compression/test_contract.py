"""What every step behind the door owes to plans: its name, its JSON, and that it acts on no choice that is open."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable

import pytest
import torch
from torch import nn

from compression.noise import SOME, TASK
from compression.test_composition import METHODS
from compression.zoo import DIGIT, zoo
from own.steps import Evenly, Rounded
from pocketpipe.compression.checking import check_step
from pocketpipe.compression.sparsity import SparsityStep
from pocketpipe.compression.tracing import profile_of
from pocketpipe.errors import Mistakes, UserError
from pocketpipe.plan import STEPS, CompressionPlan, Step
from pocketpipe.profile import NetworkProfile

MADE: dict[str, Callable[[NetworkProfile], Step]] = {
    **METHODS,
    "n_of_m": lambda profile: SparsityStep(pattern="2:4", schedule="gradual"),
    "given": lambda profile: SparsityStep(protocol="given", densities={"conv1": 0.5, "linear": 1.0}),
}
"""Steps as a search proposes them; a test of composition holds that each kind is among them."""


SETTLED = {"quantization", "four_bits", "given"}
"""Of which pinning leaves nothing to settle."""


def _network() -> nn.Module:
    """It has blocks."""
    return zoo("resnet20", DIGIT)


def _step(name: str) -> Step:
    return MADE[name](profile_of(_network(), DIGIT))


@pytest.mark.parametrize("name", MADE)
def test_it_is_behind_the_door_under_its_kind(name: str) -> None:
    step = _step(name)
    assert STEPS.resolve(step.kind) is type(step)


OWN: dict[str, Step] = {"own Evenly": Evenly(share=0.5), "own Rounded": Rounded(grid=16)}
INTEGERS = {"quantization", "four_bits"}
"""After these a network is traced no more."""


@pytest.mark.parametrize("name", [*(name for name in MADE if name not in INTEGERS), *OWN])
def test_tracing_finds_what_it_predicts(name: str) -> None:
    check_step(OWN[name] if name in OWN else _step(name), _network(), TASK, SOME)


class Forgetful(Evenly):
    """It says nothing of the channels that go, nor of the last layer."""

    def predict(self, profile: NetworkProfile) -> NetworkProfile:
        return profile.model_copy(update={"layers": profile.layers[:-1]})


def test_a_step_that_predicts_something_else_is_told_what() -> None:
    with pytest.raises(Mistakes) as caught:
        check_step(Forgetful(share=0.5), zoo("lenet", DIGIT), TASK, SOME)
    macs, parameters, layers = caught.value.lines
    assert re.fullmatch(r".*: predict says [\d,]+ macs, the network that apply makes has [\d,]+", macs)
    assert re.fullmatch(r".*: predict says [\d,]+ parameters, the network that apply makes has [\d,]+", parameters)
    assert "layers: predict has none that apply's network has not, and leaves out 'fc3'; later" in layers


def test_a_step_that_brings_integers_is_held_against_its_file() -> None:
    with pytest.raises(UserError, match="it brings integers, and such a network is not traced again"):
        check_step(_step("quantization"), _network(), TASK, SOME)


@pytest.mark.parametrize("name", MADE)
def test_a_pinned_plan_is_replayed_from_its_json_on_a_fresh_network(name: str) -> None:
    made, pinned = CompressionPlan((_step(name),)).carry_out(_network(), TASK, SOME)
    again = CompressionPlan.from_json(pinned.to_json())
    assert again == pinned
    other = copy.deepcopy(_network())
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    fresh = again.steps[0].apply(other, TASK)
    fresh.load_state_dict(made.state_dict())
    x = torch.randn(3, *DIGIT, generator=generator)
    with torch.no_grad():
        assert torch.equal(fresh.eval()(x), made.eval()(x))


@pytest.mark.parametrize("name", MADE)
def test_what_pinning_settles_is_not_applied_before(name: str) -> None:
    network, step = _network(), _step(name)
    pinned = step.pin(network, TASK, SOME)
    assert pinned.pin(network, TASK, SOME) == pinned
    assert (pinned == step) == (name in SETTLED)
    if name not in SETTLED:
        with pytest.raises(UserError, match="pin the step"):
            step.apply(network, TASK)
