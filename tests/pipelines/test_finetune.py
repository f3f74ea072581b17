"""A fine-tuning that loses what it was to win says so."""

import pytest

from pocketpipe.training.losing import worse_than_before
from training.samples import Blobs


class Errors(Blobs):
    higher_is_better = False


@pytest.mark.parametrize(
    ("task", "before", "after", "told"),
    [(Blobs(), 0.86, 0.4, True), (Blobs(), 0.86, 0.86, False), (Errors(), 0.1, 0.2, True), (Errors(), 0.2, 0.1, False)],
)
def test_only_a_loss_is_told(task: Blobs, before: float, after: float, told: bool) -> None:
    lines = worse_than_before(task, before, after, 100, "finetune")
    assert bool(lines) == told
    assert not told or f"ended at {after:.4f} accuracy, before it there were {before:.4f}" in lines[0]


def test_a_loss_in_a_small_unit_is_seen() -> None:
    (line,) = worse_than_before(Errors(), 2e-5, 3e-5, 100, "teacher")
    assert "ended at 3e-05 accuracy, before it there were 2e-05" in line
    assert "lower teacher.learning_rate" in line


@pytest.mark.parametrize(("examples", "told"), [(21, False), (2100, True)])
def test_one_of_few_examples_is_noise(examples: int, told: bool) -> None:
    task = Blobs()
    task.metric_span = 1.0
    assert bool(worse_than_before(task, 1.0, 20 / 21, examples, "finetune")) == told
