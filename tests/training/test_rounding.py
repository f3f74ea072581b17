"""Training networks that round: it must keep what the unquantized network keeps at the same rate."""

from dataclasses import replace
from pathlib import Path

import pytest

from pocketpipe.compression.codebook import CodebookStep
from pocketpipe.compression.quantization import QuantizationStep
from pocketpipe.network import StoredNetwork
from pocketpipe.plan import CompressionPlan, Step
from pocketpipe.training.inference import metric_of
from pocketpipe.training.recipe import Recipe
from training.samples import RECIPE, Blobs, deep, train

STEEP = Recipe(
    epochs=10, batch_size=32, learning_rate=0.1, schedule="cosine", warmup_epochs=0,
    distillation={"weight": 0.9, "temperature": 4.0},
)  # fmt: skip
"""A rate that throws the network out of its minimum at first, as one that is too high for a trained teacher does."""


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> StoredNetwork:
    recipe = RECIPE.model_copy(update={"epochs": 10})
    return train(tmp_path_factory.mktemp("start"), network=deep, seed=8, recipe=recipe).network


@pytest.mark.parametrize(
    "steps",
    [(QuantizationStep(weight_bits=8),), (CodebookStep(grid="int8", tuned="weights"), QuantizationStep(weight_bits=8))],
    ids=["quantization", "codebook and quantization"],
)
def test_steep_batches_do_not_throw_steps_out_of_range(
    start: StoredNetwork, steps: tuple[Step, ...], tmp_path: Path
) -> None:
    """With unbounded gradients steps end 4 and 18 times too coarse here; digits and CIFAR-10 collapsed by it."""
    splits, _ = Blobs().load(seed=0, holdout=None)
    network, plan = CompressionPlan(steps).carry_out(start.build(Blobs()), Blobs(), splits.train)
    calibrated = replace(start, plan=plan).with_weights(network)
    fitted = train(tmp_path, start=calibrated, recipe=STEEP, teacher=start)
    before, after = calibrated.state, fitted.network.state
    scales = [name for name in after if name.startswith("quantizers.") and name.endswith(".scale")]
    assert scales
    assert all(0.5 < float(after[name] / before[name]) < 2 for name in scales)
    metric = metric_of(fitted.network.build(Blobs()), Blobs(), splits.val)
    assert metric >= metric_of(network.eval(), Blobs(), splits.val)
