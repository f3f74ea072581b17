"""Mixing: against the papers' definitions, and what a training makes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from pocketpipe.errors import UserError
from pocketpipe.task import Split
from pocketpipe.training.batches import Batches, Shard
from pocketpipe.training.mixing import CutMix, Mixup
from pocketpipe.training.recipe import Recipe
from training.samples import RECIPE, Blobs, blobs, pooled, train


class AsStored(Blobs):
    def augment(self, inputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return inputs


MIXUP, CUTMIX = Mixup(kind="mixup", share=1.0), CutMix(kind="cutmix", share=1.0)


def shuffled(mixing: Mixup | CutMix, inputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each input mixed with another of the same batch."""
    return mixing.mixed(inputs, inputs[torch.randperm(len(inputs), generator=generator)], generator)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_mixup_is_a_weighted_mean_with_another_example() -> None:
    rows = torch.eye(256)  # each example says which it is
    mixed = shuffled(MIXUP, rows, seeded())
    assert torch.allclose(mixed.sum(1), torch.ones(256))
    assert int((mixed > 0).sum(1).max()) == 2
    own = mixed.diagonal()
    assert 0 < float(own.min()) < 0.2
    assert float(own.mean()) > 0.55


def test_expected_loss_is_that_of_the_paper() -> None:
    """Two targets weighted by what is seen of each (Zhang et al. 2018, algorithm 1), computed without our code."""
    data, weights = torch.randn(64, 8, generator=seeded()), torch.randn(8, 3, generator=seeded(1))
    targets = torch.randint(0, 3, (64,), generator=seeded(2))
    random, ours, theirs = np.random.default_rng(0), [], []
    mixing = Mixup(kind="mixup", alpha=0.5, share=1.0)
    generator = seeded(3)
    for _ in range(1500):
        ours.append(float(functional.cross_entropy(shuffled(mixing, data, generator) @ weights, targets)))
        first, order = float(random.beta(0.5, 0.5)), torch.from_numpy(random.permutation(64))
        outputs = (first * data + (1 - first) * data[order]) @ weights
        losses = [float(functional.cross_entropy(outputs, each)) for each in (targets, targets[order])]
        theirs.append(first * losses[0] + (1 - first) * losses[1])
    error = np.hypot(np.std(ours), np.std(theirs)) / np.sqrt(len(ours))
    plain = float(functional.cross_entropy(data @ weights, targets))
    assert abs(np.mean(ours) - np.mean(theirs)) < 3 * error < 0.1 * abs(np.mean(theirs) - plain)


def test_cutmix_shows_a_rectangle_of_one_within_the_other() -> None:
    images = torch.arange(64, dtype=torch.uint8).reshape(64, 1, 1, 1).expand(64, 2, 9, 7).contiguous()
    mixed = shuffled(CUTMIX, images, seeded())
    assert mixed.dtype == torch.uint8
    assert torch.equal(mixed[:, 0], mixed[:, 1])
    inside = outside = 0
    for number, image in enumerate(mixed[:, 0].numpy()):
        own = image == number
        assert len(set(image[~own].tolist())) <= 1  # all the rest is one other
        own_inside, other_inside = is_rectangle(own), is_rectangle(~own)
        assert own_inside or other_inside
        inside, outside = inside + (own_inside and not own.all()), outside + (other_inside and not own.all())
    assert inside > 5
    assert outside > 5


def is_rectangle(mask: np.ndarray) -> bool:
    rows, columns = mask.any(1), mask.any(0)
    return bool((mask == np.outer(rows, columns)).all() and contiguous(rows) and contiguous(columns))


def contiguous(line: np.ndarray) -> bool:
    where = np.flatnonzero(line)
    return len(where) == 0 or where[-1] - where[0] + 1 == len(where)


@pytest.mark.parametrize("alpha", [0.3, 1.0, 3.0])
def test_a_target_is_as_likely_as_what_is_seen_of_it(alpha: float) -> None:
    """E[own] = E[a^2 + (1 - a)^2] where one of the two shows a and its target is taken with that chance."""
    draws = np.random.default_rng(1).beta(alpha, alpha, 200_000)
    expected = np.mean(draws**2 + (1 - draws) ** 2)
    mixed = shuffled(Mixup(kind="mixup", alpha=alpha, share=1.0), torch.eye(4000), seeded())
    assert abs(float(mixed.diagonal().mean()) - expected) < 0.02


def test_a_share_is_mixed_and_the_others_are_as_they_were() -> None:
    images = torch.randint(0, 256, (2000, 1, 2, 2), generator=seeded(), dtype=torch.uint8)
    mixed = shuffled(Mixup(kind="mixup", share=0.25), images, seeded(1))
    assert abs(float((mixed != images).flatten(1).any(1).float().mean()) - 0.25) < 0.04


@pytest.mark.parametrize("views", [None, 2])
def test_batches_show_mixtures_that_depend_on_seed_and_epoch_alone(views: int | None) -> None:
    def cut(epoch: int, mixing: Mixup | None, rank: int = 0, ranks: int = 1) -> list[torch.Tensor]:
        split = blobs("train", 60, 0)
        batches = Batches(Blobs(), split, 20, 1, Shard(rank, ranks), torch.device("cpu"), views, mixing)
        return [torch.cat(each) for each in list(zip(*batches.epoch(epoch), strict=True))[:2]]

    inputs, targets = cut(3, MIXUP)
    assert all(map(torch.equal, (inputs, targets), cut(3, MIXUP)))
    plain, same = cut(3, None)
    assert torch.equal(targets, same)
    assert not torch.equal(inputs, plain)
    halves = [cut(3, MIXUP, rank, 2)[0].split(10) for rank in range(2)]
    assert torch.equal(inputs, torch.cat([part for pair in zip(*halves, strict=True) for part in pair]))


@pytest.mark.parametrize("views", [None, 1])
def test_others_come_from_the_whole_split_however_it_is_sorted(views: int | None) -> None:
    """A folder of images is read class by class: neighbours would show the same one."""
    classes = np.repeat(np.arange(2), 600)
    split = Split(
        "sorted", np.broadcast_to(classes[:, None, None, None], (1200, 1, 6, 6)).astype(np.uint8) * 200, classes
    )
    batches = Batches(AsStored(), split, 100, 1, Shard(), torch.device("cpu"), views, CUTMIX)
    shown = torch.cat([each.inputs for each in batches.epoch(0)]).flatten(1)
    both = (shown.amin(1) < shown.amax(1)).float().mean()
    assert float(both) > 0.35  # of two drawn at random half are of different classes


def test_cached_views_are_asked_about_as_they_are_shown() -> None:
    batches = Batches(Blobs(), blobs("train", 60, 0), 20, 1, Shard(), torch.device("cpu"), 2, CUTMIX)
    asked = torch.cat(list(batches.view(1)))
    shown = list(batches.epoch(3))
    assert torch.equal(torch.cat([each.inputs for each in shown]), asked[torch.cat([each.chosen for each in shown])])


@pytest.mark.parametrize("mixing", [MIXUP, CUTMIX])
def test_a_training_sees_mixtures(tmp_path: Path, mixing: Mixup | CutMix) -> None:
    mixed = train(tmp_path / "mixed", network=pooled, recipe=RECIPE.model_copy(update={"mixing": mixing}))
    assert mixed.network.digest() != train(tmp_path / "plain", network=pooled, recipe=RECIPE).network.digest()
    assert mixed.curves["val_accuracy"][-1] > 0.9


def test_what_looks_at_one_class_an_example_is_refused() -> None:
    for asked, message in (
        ({"mistakes": "corrected"}, "set distillation.mistakes to kept"),
        ({"outputs": {"kind": "dkd"}}, "set distillation.outputs to {kind: logits}"),
    ):
        with pytest.raises(ValidationError, match=message):
            Recipe(**{**RECIPE.model_dump(), "mixing": MIXUP, "distillation": asked})


def test_rectangles_are_of_images() -> None:
    MIXUP.check((8, 8))
    with pytest.raises(UserError, match=r"cutmix is for images, and inputs have shape \(8, 8\)"):
        CUTMIX.check((8, 8))
