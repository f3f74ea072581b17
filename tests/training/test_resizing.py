"""Progressive resizing: what the network sees and when, and networks that cannot see it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch import nn

from pocketpipe.errors import UserError
from pocketpipe.training.recipe import Recipe
from pocketpipe.training.resizing import ProgressiveResizing
from training.samples import RECIPE, pooled, train

HALF = ProgressiveResizing(scale=0.5, until=0.5)


def test_small_images_are_what_pillow_makes_of_them() -> None:
    image = torch.rand(1, 1, 12, 8, generator=torch.Generator().manual_seed(0))
    expected = Image.fromarray(image[0, 0].numpy()).resize((4, 6), Image.Resampling.BILINEAR)
    assert np.allclose(HALF.shown(image, 0.0)[0, 0].numpy(), np.asarray(expected), atol=1e-6)


def test_a_training_sees_small_images_first_and_whole_ones_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides: list[int] = []
    shown = ProgressiveResizing.shown

    def noted(self: ProgressiveResizing, images: torch.Tensor, progress: float) -> torch.Tensor:
        made = shown(self, images, progress)
        sides.append(made.shape[-1])
        return made

    recipe = RECIPE.model_copy(update={"epochs": 4, "progressive_resizing": HALF})
    monkeypatch.setattr(ProgressiveResizing, "shown", noted)
    resized = train(tmp_path / "resized", network=pooled, recipe=recipe)
    assert sides == [3, *[3] * 12, *[6] * 12]  # tried once before, then six steps an epoch
    whole = train(tmp_path / "whole", network=pooled, recipe=recipe.model_copy(update={"progressive_resizing": None}))
    assert resized.network.digest() != whole.network.digest()


def test_features_are_not_compared_between_sizes() -> None:
    features = {"weight": 0.5, "temperature": 2.0, "features": {"kind": "attention"}}
    with pytest.raises(ValidationError, match="compares maps of one size"):
        Recipe(**{**RECIPE.model_dump(), "progressive_resizing": HALF, "distillation": features})


class Refusing(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert images.shape[-1] == 6
        return images


@pytest.mark.parametrize(
    ("network", "message"), [(Refusing(), "assert 3 == 6"), (nn.Identity(), "outputs of another shape")]
)
def test_networks_that_answer_otherwise_are_refused(network: nn.Module, message: str) -> None:
    with pytest.raises(UserError, match=message):
        HALF.check(network, (1, 6, 6))


@pytest.mark.parametrize(("shape", "message"), [((1, 6, 6), "no images smaller than"), ((8, 6), "are no images")])
def test_networks_that_need_their_size_are_refused(shape: tuple[int, ...], message: str) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), 2))
    with pytest.raises(UserError, match=message):
        HALF.check(network, shape)
    assert network.training
