"""The loss of a recipe: its parts, each with its weight, and what grows while the training goes on."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from pocketpipe.compression.distillation import attention_loss, corrected, decoupled_loss, distillation_loss
from pocketpipe.compression.group_sparsity import channel_norms, penalty
from pocketpipe.compression.tracing import trace
from pocketpipe.errors import UserError
from pocketpipe.network import StoredNetwork
from pocketpipe.training.distilling import Attention, Decoupled, Distillation
from pocketpipe.training.features import FeatureDistance, Response
from pocketpipe.training.module import Training, decays
from pocketpipe.training.objective import Objective, risen
from pocketpipe.training.recipe import GroupSparsity
from training.samples import RECIPE, Blobs, deep, train

GENERATOR = torch.Generator().manual_seed(0)
OWN, TAUGHT = torch.randn(2, 5, 4, generator=GENERATOR)
TARGETS = torch.tensor([0, 1, 2, 3, 0])
TASK = Blobs()
LOSS = TASK.loss(OWN, TARGETS)


def objective(distillation: Distillation, features: FeatureDistance | None = None) -> Objective:
    return Objective(TASK, RECIPE.model_copy(update={"distillation": distillation}), features)


def test_the_parts_are_mixed_by_their_weight() -> None:
    loss = objective(Distillation(weight=0.3, temperature=2.0))(Response(OWN), Response(TAUGHT), TARGETS, 0.0)
    assert torch.allclose(loss, 0.7 * LOSS + 0.3 * distillation_loss(OWN, TAUGHT, 2.0))
    assert torch.equal(Objective(TASK, RECIPE)(Response(OWN), None, TARGETS, 0.0), LOSS)


class Viewing(Blobs):
    """A loss that takes a view of what the network answers, as Dice is often written."""

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor, *, smoothing: float = 0.0) -> torch.Tensor:
        return (outputs.view(len(outputs), -1).mean(1) - targets).square().mean()


def test_a_loss_may_take_views_of_maps() -> None:
    maps = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    loss = Objective(Viewing(), RECIPE)(Response(maps), None, torch.zeros(2), 0.0)
    assert torch.allclose(loss, maps.mean((1, 2, 3)).square().mean())


@pytest.mark.parametrize(("progress", "share"), [(0.0, 0.0), (0.1, 0.5), (0.2, 1.0), (0.9, 1.0)])
def test_dkd_grows(progress: float, share: float) -> None:
    distillation = Distillation(weight=0.5, outputs=Decoupled(kind="dkd", alpha=2.0, beta=3.0, warmup=0.2))
    loss = objective(distillation)(Response(OWN), Response(TAUGHT), TARGETS, progress)
    dkd = decoupled_loss(OWN, TAUGHT, TARGETS, 4.0, alpha=2.0, beta=3.0)
    assert torch.allclose(loss, 0.5 * LOSS + 0.5 * share * dkd)


@pytest.mark.parametrize("kind", [{"outputs": Decoupled(kind="dkd")}, {"mistakes": "corrected"}])
def test_where_outputs_count_for_nothing_they_need_not_be_a_choice(kind: dict[str, Any]) -> None:
    """As the advice for other tasks has it: weight 0, and features."""
    maps = torch.randn(2, 3, 4)
    regression = Objective(Viewing(), RECIPE.model_copy(update={"distillation": Distillation(weight=0.0, **kind)}))
    loss = regression(Response(maps), Response(maps), torch.zeros(2), 0.0)
    assert torch.allclose(loss, maps.mean((1, 2)).square().mean())


def test_features_come_beside_the_outputs() -> None:
    attention = Attention(kind="attention", weight=7.0)
    maps = [torch.rand(5, width, 3, 3, generator=GENERATOR) for width in (2, 2, 6, 6)]
    own, taught = Response(OWN, tuple(maps[:2])), Response(TAUGHT, tuple(maps[2:]))
    distillation = Distillation(weight=0.0, features=attention)
    loss = objective(distillation, FeatureDistance(attention, (2, 2), (6, 6)))(own, taught, TARGETS, 0.0)
    assert torch.allclose(loss, LOSS + 7.0 * sum(attention_loss(maps[i], maps[i + 2]) for i in range(2)))


def test_mistakes_are_corrected_before_anything_is_learned_of_them() -> None:
    distillation = Distillation(weight=0.5, mistakes="corrected")
    loss = objective(distillation)(Response(OWN), Response(TAUGHT), TARGETS, 0.5)
    right = distillation_loss(OWN, corrected(TAUGHT, TARGETS), 4.0)
    assert not torch.allclose(right, distillation_loss(OWN, TAUGHT, 4.0))
    assert torch.allclose(loss, 0.5 * LOSS + 0.5 * right)


def test_dkd_is_for_classes() -> None:
    distillation = Distillation(outputs=Decoupled(kind="dkd"))
    with pytest.raises(UserError, match=r"distillation.outputs: dkd is for classification .*; use logits"):
        objective(distillation)(Response(OWN), Response(TAUGHT), TAUGHT.softmax(1), 0.0)


def test_group_sparsity_rises_to_its_strength() -> None:
    network = deep((1, 6, 6), 4)
    traced = trace(network, (1, 6, 6))
    recipe = RECIPE.model_copy(update={"group_sparsity": GroupSparsity(strength=0.1, grows=0.5, focus=2.0)})
    full = 0.1 * penalty(network, traced, focus=2.0)
    for progress, share in ((0.0, 0.0), (0.25, 0.5), (0.5, 1.0), (1.0, 1.0)):
        assert torch.allclose(
            torch.as_tensor(Objective(TASK, recipe, None, traced).penalty(network, progress)), share * full
        )
    assert Objective(TASK, RECIPE).penalty(network, 1.0) == 0.0
    assert risen(0.0, 0.0) == 1.0


def test_group_sparsity_leaves_channels_that_hardly_count(tmp_path: Path) -> None:
    plain = RECIPE.model_copy(update={"epochs": 12, "weight_decay": 0.0})
    sparse = plain.model_copy(update={"group_sparsity": GroupSparsity(strength=0.01, grows=0.3)})
    shares = {}
    for name, recipe in (("plain", plain), ("sparse", sparse)):
        fitted = train(tmp_path / name, network=deep, recipe=recipe)
        shares[name] = _weakest_half(fitted.network)
        assert fitted.curves["val_accuracy"][-1] > 0.9
    assert shares["sparse"] < 0.5 * shares["plain"]


def _weakest_half(stored: StoredNetwork) -> float:
    """Share of the weaker half of each group's channels in the squares of all, averaged over the groups."""
    network = stored.build(TASK)
    parameters = dict(network.named_parameters())
    groups = [group for group in trace(network, TASK.input_shape).groups if group.slimmable]
    squares = [channel_norms(parameters, group).detach().square().sort().values for group in groups]
    return float(torch.stack([each[: len(each) // 2].sum() / each.sum() for each in squares]).mean())


def test_what_lies_on_weights_does_not_decay() -> None:
    network = nn.Linear(4, 3)
    table = nn.Module()
    table.register_parameter("centroids", nn.Parameter(torch.zeros(3, 8)))
    table.register_parameter("scale", nn.Parameter(torch.zeros(3)))
    table.forward = lambda weight: weight  # type: ignore[method-assign]
    nn.utils.parametrize.register_parametrization(network, "weight", table)
    found = {name: decays(name, parameter) for name, parameter in network.named_parameters()}
    assert found == {
        "bias": False,
        "parametrizations.weight.original": True,
        "parametrizations.weight.0.centroids": False,
        "parametrizations.weight.0.scale": False,
    }


def test_normalization_and_scales_of_several_axes_do_not_decay() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.LayerNorm([4, 6, 6]), nn.Flatten(), nn.Linear(144, 1))
    network.register_parameter("scale", nn.Parameter(torch.ones(4, 1, 1)))
    module = SimpleNamespace(network=network, objective=Objective(TASK, RECIPE), _recipe=RECIPE)
    module.modules = network.modules
    decayed = {id(parameter) for parameter in Training.configure_optimizers(module).param_groups[0]["params"]}
    assert {name for name, each in network.named_parameters() if id(each) in decayed} == {"0.weight", "3.weight"}


def test_losses_are_computed_in_float32_whatever_the_network_is_computed_in() -> None:
    seen = []

    class Product(Blobs):
        def loss(self, outputs: torch.Tensor, targets: torch.Tensor, *, smoothing: float = 0.0) -> torch.Tensor:
            seen.append((outputs @ outputs.T).dtype)
            return outputs.square().mean()

    with torch.autocast("cpu", torch.bfloat16):
        Objective(Product(), RECIPE)(Response(OWN.bfloat16()), None, TARGETS, 0.0)
    assert seen == [torch.float32]


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_parameter_may_have_its_first_gradient_later(name: str) -> None:
    """Blocks that are left out at random (LayerDrop)."""

    class Dropped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.always, self.later = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor, late: bool) -> torch.Tensor:
            return self.later(self.always(x)) if late else self.always(x)

    network = Dropped()
    recipe = RECIPE.model_copy(update={"optimizer": name, "weight_decay": 0.3})
    module = SimpleNamespace(
        network=network, objective=Objective(TASK, recipe), _recipe=recipe, modules=network.modules
    )
    optimizer = Training.configure_optimizers(module)
    plain = Dropped()
    plain.load_state_dict(network.state_dict())
    groups = [
        {"params": [plain.always.weight, plain.later.weight], "weight_decay": 0.3},
        {"params": [plain.always.bias, plain.later.bias], "weight_decay": 0.0},
    ]
    usual: torch.optim.Optimizer = (
        torch.optim.SGD(groups, lr=RECIPE.learning_rate, momentum=0.9, nesterov=True, fused=False, foreach=False)
        if name == "sgd"
        else torch.optim.AdamW(groups, lr=RECIPE.learning_rate, fused=False, foreach=False)
    )
    for late in (False, True, False):
        for each, steps in ((network, optimizer), (plain, usual)):
            steps.zero_grad()
            each(OWN[:, :4], late).square().sum().backward()
            steps.step()
    for found, expected in zip(network.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(found, expected, atol=1e-6)
