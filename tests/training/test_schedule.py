"""The learning rate against PyTorch's own schedulers."""

import pytest
import torch
from pydantic import ValidationError

from pocketpipe.training.recipe import Recipe, TrainerSettings
from pocketpipe.training.schedule import learning_rate

STEPS_PER_EPOCH = 5


def rates(recipe: Recipe) -> list[float]:
    return [learning_rate(recipe, step, STEPS_PER_EPOCH) for step in range(recipe.epochs * STEPS_PER_EPOCH)]


def stepped(
    optimizer: torch.optim.Optimizer, scheduler: torch.optim.lr_scheduler.LRScheduler, steps: int
) -> list[float]:
    result = []
    for _ in range(steps):
        result.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return result


def sgd() -> torch.optim.SGD:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)


def test_one_cycle_is_pytorchs() -> None:
    recipe = Recipe(epochs=8, batch_size=1, learning_rate=0.3, warmup_epochs=2, schedule="one_cycle")
    optimizer = sgd()
    # Its warm-up ends at step pct_start * total - 1, ours at the end of the warm-up epochs: one step later.
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.3, total_steps=40, pct_start=11 / 40, cycle_momentum=False, final_div_factor=1e8
    )
    assert rates(recipe) == pytest.approx(stepped(optimizer, scheduler, 40), abs=1e-6)


def test_cosine_after_a_warmup_is_pytorchs() -> None:
    recipe = Recipe(epochs=8, batch_size=1, learning_rate=0.3, warmup_epochs=0, schedule="cosine")
    optimizer = sgd()
    expected = stepped(optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40), 40)
    assert rates(recipe) == pytest.approx(expected, abs=1e-7)
    warm = recipe.model_copy(update={"epochs": 10, "warmup_epochs": 2})
    assert rates(warm)[10:] == pytest.approx(expected, abs=1e-7)
    assert rates(warm)[:10] == pytest.approx([0.03 * step for step in range(1, 11)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"momentum": 1.0}, "momentum"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"ema": 1.0}, "ema"),
        ({"warmup_epochs": 8}, "warmup_epochs 8 must be below epochs 8"),
        ({"schedule": "steps"}, "one_cycle"),
        ({"distillation": {"weight": 1.5}}, "weight"),
        ({"distillation": {"temperature": 0}}, "temperature"),
        ({"learning_rte": 0.1}, "learning_rte"),
    ],
)
def test_a_recipe_refuses_what_makes_no_sense(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Recipe.model_validate({"epochs": 8, "batch_size": 4, "learning_rate": 0.1, **change})


def test_settings_refuse_what_makes_no_sense() -> None:
    for change in ({"devices": 0}, {"nodes": 0}, {"accelerator": "tpu"}, {"precision": "fp8"}, {"threads": 0}):
        with pytest.raises(ValidationError, match=next(iter(change))):
            TrainerSettings.model_validate(change)
