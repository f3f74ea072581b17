"""Properties of the two ways in which a share is chosen, over many class sizes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketpipe.task import Split
from pocketpipe.tasks.splitting import by_content, stratified

SIZES = st.lists(st.integers(3, 60), min_size=1, max_size=6)


def _split(sizes: list[int], order_seed: int = 0) -> Split:
    targets = np.repeat(np.arange(len(sizes)), sizes)
    inputs = np.arange(len(targets), dtype=np.int64)[:, None] * 7919
    order = np.random.default_rng(order_seed).permutation(len(targets))
    return Split("numbers", inputs[order], targets[order])


@pytest.mark.parametrize("pick", [stratified, by_content])
@given(sizes=SIZES, share=st.floats(0.05, 0.5), salt=st.text(max_size=5))
@settings(max_examples=60, deadline=None)
def test_every_class_is_on_both_sides(pick, sizes: list[int], share: float, salt: str) -> None:
    split = _split(sizes)
    chosen = pick(split, share, salt)
    assert np.array_equal(chosen, np.unique(chosen))
    counts = np.bincount(split.targets[chosen], minlength=len(sizes))
    assert (counts >= 1).all()
    assert (counts < sizes).all()
    assert np.array_equal(chosen, pick(split, share, salt))


@pytest.mark.parametrize("pick", [stratified, by_content])
def test_an_only_example_stays(pick) -> None:
    split = _split([1, 2, 20])
    counts = np.bincount(split.targets[pick(split, 0.5, "holdout")], minlength=3)
    assert counts[0] == 0
    assert counts[1] == 1
    assert len(pick(_split([1]), 0.5, "holdout")) == 0


@given(sizes=SIZES, share=st.floats(0.1, 0.5))
@settings(max_examples=60, deadline=None)
def test_stratified_keeps_to_the_share(sizes: list[int], share: float) -> None:
    split = _split(sizes)
    counts = np.bincount(split.targets[stratified(split, share, "x")], minlength=len(sizes))
    assert (abs(counts - share * np.array(sizes)) <= 1.5).all()


def test_another_salt_is_another_choice() -> None:
    split = _split([50, 50])
    for pick in (stratified, by_content):
        assert not np.array_equal(pick(split, 0.3, "val 0"), pick(split, 0.3, "val 1"))


def test_by_content_does_not_look_at_the_order() -> None:
    first, second = _split([40, 60], 1), _split([40, 60], 2)
    chosen = [set(s.inputs[by_content(s, 0.2, "test"), 0].tolist()) for s in (first, second)]
    assert chosen[0] == chosen[1]
    assert 10 <= len(chosen[0]) <= 32


def test_by_content_keeps_copies_together() -> None:
    single = _split([40, 40])
    double = Split("twice", np.concatenate([single.inputs] * 2), np.concatenate([single.targets] * 2))
    chosen = by_content(double, 0.2, "test")
    assert np.array_equal(chosen[: len(chosen) // 2] + 80, chosen[len(chosen) // 2 :])
