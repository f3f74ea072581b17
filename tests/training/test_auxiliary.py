"""Auxiliary classifiers: where they are, what they add to the loss, and that they are trained with the network."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional

from compression.zoo import DIGIT, zoo
from pocketpipe.errors import UserError
from pocketpipe.network import StoredNetwork
from pocketpipe.task import TaskChoice
from pocketpipe.training.auxiliary import AuxiliaryClassifiers, points_of
from pocketpipe.training.features import Response
from pocketpipe.training.objective import Objective
from pocketpipe.training.recipe import Auxiliary, Distillation, SparsifyRecipe
from training.samples import RECIPE, Blobs, Interrupted, blobs, deep, train

GENERATOR = torch.Generator().manual_seed(0)
MAPS = torch.randn(5, 3, 2, 2, generator=GENERATOR)
ROWS = torch.randn(5, 7, 6, generator=GENERATOR)
OUTPUTS, TARGETS = torch.randn(5, 4, generator=GENERATOR), torch.tensor([0, 1, 2, 3, 0])


def by_hand(head: Any, by_place: torch.Tensor) -> torch.Tensor:
    """Logits for (N, positions, channels)."""
    flat = by_place.flatten(0, 1)
    scaled = (flat - flat.mean(0)) / (flat.var(0, unbiased=False) + 1e-5).sqrt()
    pooled = scaled.clamp_min(0).view_as(by_place).mean(1)
    return pooled @ head.linear.weight.T + head.linear.bias


def test_their_mean_loss_is_added_beside_that_of_teachers() -> None:
    torch.manual_seed(0)
    task, recipe = Blobs(), RECIPE.model_copy(update={"distillation": Distillation(weight=0.9)})
    auxiliary = AuxiliaryClassifiers(("maps", "rows"), (3, 6), 4, weight=0.5)
    student, taught = Response(OUTPUTS, (), (MAPS, ROWS)), Response(OUTPUTS.flip(0))
    without = Objective(task, recipe)(student, taught, TARGETS, 0.0)
    found = Objective(task, recipe, auxiliary=auxiliary)(student, taught, TARGETS, 0.0)
    logits = [by_hand(auxiliary.heads[0], MAPS.movedim(1, -1).flatten(1, 2)), by_hand(auxiliary.heads[1], ROWS)]
    expected = sum(functional.cross_entropy(each, TARGETS) for each in logits) / 2
    assert torch.allclose(found - without, 0.5 * expected, atol=1e-5)


def test_they_read_the_last_maps_of_each_size_but_the_last() -> None:
    network = zoo("resnet8", DIGIT)
    assert points_of(network, DIGIT, (10,), Auxiliary()) == {"layer1": (16, 8, 8), "layer2": (32, 4, 4)}
    named = Auxiliary(points=("layer2.0.conv1", "layer3"))
    assert points_of(network, DIGIT, (10,), named) == {"layer2.0.conv1": (32, 4, 4), "layer3": (64, 2, 2)}


def test_where_there_is_nothing_to_read_it_is_said() -> None:
    network = zoo("resnet8", DIGIT)
    with pytest.raises(UserError, match=r"points: layer9, linear: no module that makes maps; possible: conv1"):
        points_of(network, DIGIT, (10,), Auxiliary(points=("layer1", "layer9", "linear")))
    with pytest.raises(UserError, match=r"one row of numbers of an example, and the network says \(10, 8, 8\)"):
        points_of(network, DIGIT, (10, 8, 8), Auxiliary())
    one_size = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Flatten(), nn.Linear(256, 10))
    with pytest.raises(UserError, match=r"maps of one size only; name modules in points \(0\)"):
        points_of(one_size, DIGIT, (10,), Auxiliary())


def test_a_recipe_before_the_cut_prepares_it() -> None:
    given = RECIPE.model_dump(exclude_unset=True)
    with pytest.raises(ValidationError, match="set group_sparsity or auxiliary"):
        SparsifyRecipe(**given)
    assert SparsifyRecipe(**given, auxiliary={"weight": 0.3}).auxiliary == Auxiliary(weight=0.3)


def separable(network: StoredNetwork) -> float:
    """How well the best linear classifier tells the classes by what the first ReLU makes, on other images."""
    built, (shown, asked) = network.build(Blobs()), (blobs("train", 400, 7), blobs("val", 400, 8))

    def rows(inputs: Any) -> torch.Tensor:
        with torch.no_grad():
            made = built.get_submodule("2")(built.get_submodule("1")(built.get_submodule("0")(inputs)))
        return torch.cat([made.mean((2, 3)), torch.ones(len(made), 1)], 1).double()

    prepare = Blobs.preprocessing
    known, unknown = (rows(torch.from_numpy(prepare(split.inputs))) for split in (shown, asked))
    wanted = functional.one_hot(torch.from_numpy(shown.targets), 4).double()
    answers = unknown @ torch.linalg.lstsq(known, wanted).solution
    return float((answers.argmax(1).numpy() == asked.targets).mean())


def test_trained_with_them_features_tell_classes_apart(tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(update={"epochs": 20})
    with_them = recipe.model_copy(update={"auxiliary": Auxiliary(points=("2",), weight=3.0)})
    plain, helped = (train(tmp_path / str(each.auxiliary), network=deep, recipe=each) for each in (recipe, with_them))
    assert helped.network.state.keys() == plain.network.state.keys(), "they are not delivered"
    assert separable(helped.network) > separable(plain.network) + 0.1


def test_they_are_resumed_with_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = TaskChoice(name="training.samples:build_interrupted")
    recipe = RECIPE.model_copy(update={"auxiliary": Auxiliary(points=("2",))})
    np.random.seed(1), random.seed(1)
    whole = train(tmp_path / "whole", network=deep, recipe=recipe, task=task)
    monkeypatch.setattr(Interrupted, "calls", 0)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "halved", network=deep, recipe=recipe, task=task)
    assert train(tmp_path / "halved", network=deep, recipe=recipe, task=task).network.digest() == whole.network.digest()


def test_where_maps_grow_again_the_smallest_ones_are_read_too() -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.MaxPool2d(2), nn.MaxPool2d(2), nn.Upsample(scale_factor=2),
        nn.Upsample(scale_factor=2), nn.Flatten(), nn.Linear(256, 10),
    )  # fmt: skip
    assert points_of(network, DIGIT, (10,), Auxiliary()) == {"2": (4, 2, 2), "3": (4, 4, 4)}
