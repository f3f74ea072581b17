"""The rule on the figures that it was made for, and on honest weights drawn at random."""

import numpy as np
import pytest

from pocketpipe.tasks.contamination import contamination

FIVE_THOUSAND = {"train": 5000, "val": 5000, "holdout": 5000}


@pytest.mark.parametrize(("known", "unseen"), [(0.998, 0.9173), (1.0, 0.9339)], ids=["resnet20", "resnet56"])
def test_the_published_cifar_weights_are_found_out(known: float, unseen: float) -> None:
    with_holdout = contamination(known, known, unseen, FIVE_THOUSAND)
    assert with_holdout.status == "memorized"
    assert f"{unseen:.2%}" in with_holdout.warnings[0]
    without = contamination(known, known, None, FIVE_THOUSAND)
    assert without.status == "looks memorized"
    assert "name task.holdout to know" in without.warnings[0]
    assert with_holdout.suspicious
    assert without.suspicious


def test_weights_that_never_saw_val_are_believed() -> None:
    """A val metric as good as the hold-out's; or, without one, clearly below train's."""
    assert contamination(0.998, 0.921, 0.917, FIVE_THOUSAND).warnings == ()
    assert contamination(0.998, 0.921, None, FIVE_THOUSAND).status == "unseen"


def test_weights_that_know_nothing_by_heart_are_believed() -> None:
    assert contamination(0.93, 0.93, None, FIVE_THOUSAND).status == "unseen"


def test_few_examples_are_no_proof() -> None:
    """Five points apart: noise on 50 examples, proof on 5,000."""
    assert contamination(0.99, 0.97, 0.92, {"train": 50, "val": 50, "holdout": 50}).status == "unseen"
    assert contamination(0.99, 0.97, 0.92, FIVE_THOUSAND).status == "memorized"


def test_perfect_figures_are_not_taken_for_certain() -> None:
    assert contamination(1.0, 1.0, 0.98, {"train": 100, "val": 100, "holdout": 100}).status == "unseen"


def test_honest_weights_are_rarely_accused() -> None:
    """Val and hold-out drawn with the same true accuracy: by the three standard errors, about 1 in 700 is accused."""
    random = np.random.default_rng(0)
    accused = 0
    for accuracy in (0.6, 0.9, 0.99):
        draws = random.binomial(1000, accuracy, (2000, 2)) / 1000
        accused += sum(
            contamination(1.0, val, holdout, {"train": 1000, "val": 1000, "holdout": 1000}).suspicious
            for val, holdout in draws
        )
    assert accused / 6000 < 0.004


def test_a_metric_that_is_no_share_is_not_judged() -> None:
    found = contamination(31.5, 31.0, None, FIVE_THOUSAND)
    assert found.status == "not judged"
    assert found.warnings


def test_it_is_a_value() -> None:
    found = contamination(1.0, 1.0, 0.93, FIVE_THOUSAND)
    assert type(found).model_validate_json(found.model_dump_json()) == found


def test_an_error_rate_is_not_judged_as_if_it_were_an_accuracy() -> None:
    """Weights that know val by heart err less on it: the rule would call that unseen."""
    found = contamination(0.01, 0.01, 0.08, FIVE_THOUSAND, higher_is_better=False)
    assert found.status == "not judged"
    assert "higher being better" in found.warnings[0]
