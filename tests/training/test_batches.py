"""Batches: a function of (seed, epoch), shards that make up the whole, preprocessing as NumPy does it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketpipe.samples import prepared, to_tensor
from pocketpipe.task import Split
from pocketpipe.training.batches import Batches, Shard, epoch_seed
from training.samples import Blobs, blobs

CPU = torch.device("cpu")


class Unchanged(Blobs):
    """No augmentation, no preprocessing: a batch shows which examples it holds."""

    preprocessing = Blobs.preprocessing.model_copy(update={"scale": 1.0, "mean": (0.0,), "std": (1.0,)})

    def augment(self, inputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return inputs


class InPlace(Unchanged):
    """As many people write it."""

    def augment(self, inputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return inputs.add_(1)


def numbered(count: int) -> Split:
    return Split("numbered", np.arange(count, dtype=np.uint8).reshape(-1, 1, 1, 1), np.arange(count))


def test_an_epoch_shows_each_example_at_most_once_with_its_target() -> None:
    batches = Batches(Unchanged(), numbered(50), 16, 0, Shard(), CPU)
    assert batches.steps == len(batches.epoch(0)) == 3
    cut = list(batches.epoch(0))
    shown = torch.cat([batch.inputs.flatten() for batch in cut])
    assert len(set(shown.tolist())) == 48
    assert torch.equal(shown, torch.cat([batch.targets for batch in cut]).float())
    assert not torch.equal(shown, torch.cat([inputs.flatten() for inputs, _, _ in batches.epoch(1)]))


def test_a_batch_larger_than_the_split_is_the_split() -> None:
    (only,) = Batches(Unchanged(), numbered(5), 64, 0, Shard(), CPU).epoch(0)
    assert sorted(only[1].tolist()) == [0, 1, 2, 3, 4]


def test_batches_depend_on_seed_and_epoch_alone() -> None:
    split = blobs("train", 60, 0)

    def inputs(seed: int, epoch: int) -> torch.Tensor:
        batches = Batches(Blobs(), split, 20, seed, Shard(), CPU)
        return torch.cat([batch.inputs for batch in batches.epoch(epoch)])

    assert torch.equal(inputs(1, 2), inputs(1, 2))
    assert not torch.equal(inputs(1, 2), inputs(2, 2))
    assert not torch.equal(inputs(1, 2), inputs(1, 1))


@settings(deadline=None)
@given(st.sampled_from([1, 2, 3, 6]), st.integers(0, 5))
def test_shards_put_together_are_the_batch(ranks: int, epoch: int) -> None:
    split = blobs("train", 40, 0)
    whole = list(Batches(Blobs(), split, 12, 7, Shard(), CPU).epoch(epoch))
    parts = [list(Batches(Blobs(), split, 12, 7, Shard(rank, ranks), CPU).epoch(epoch)) for rank in range(ranks)]
    for index, (inputs, targets, _) in enumerate(whole):
        assert torch.equal(inputs, torch.cat([part[index][0] for part in parts]))
        assert torch.equal(targets, torch.cat([part[index][1] for part in parts]))
        assert {len(part[index][1]) for part in parts} == {12 // ranks}


def test_an_augmentation_in_place_changes_views_alone() -> None:
    split = numbered(6)
    before = split.inputs.copy()
    batches = Batches(InPlace(), split, 3, 0, Shard(), CPU, views=2)
    for view in (0, 1, 0):
        assert torch.equal(torch.cat(list(batches.view(view))).flatten(), torch.arange(1.0, 7.0))
    assert np.array_equal(split.inputs, before)


def test_preprocessing_is_numpys_and_leaves_the_stored_inputs_alone() -> None:
    split = blobs("any", 8, 0)
    stored = to_tensor(split.inputs)
    assert np.array_equal(prepared(Blobs.preprocessing, stored).numpy(), Blobs.preprocessing(split.inputs))
    rows = np.random.default_rng(0).normal(size=(4, 3, 2)).astype(np.float32)
    before = rows.copy()
    per_row = Blobs.preprocessing.model_copy(update={"mean": (0.1, 0.2, 0.3), "std": (1.0, 2.0, 3.0)})
    assert np.array_equal(prepared(per_row, to_tensor(rows)).numpy(), per_row(rows))
    assert np.array_equal(rows, before)


def test_read_only_arrays_are_taken(tmp_path: Path) -> None:
    array = np.arange(6).reshape(2, 3)
    array.flags.writeable = False
    assert to_tensor(array).tolist() == array.tolist()


def test_seeds_differ_between_epochs_and_streams() -> None:
    seeds = {epoch_seed(seed, epoch, stream) for seed in range(4) for epoch in range(4) for stream in range(3)}
    assert len(seeds) == 48
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("kind", [np.uint16, np.uint32, np.float64])
def test_types_that_torch_cannot_pick_examples_of_are_taken(kind: type) -> None:
    source = blobs("train", 16, 0)
    split = Split("train", source.inputs.astype(kind), source.targets.astype(np.float64))
    batches = Batches(Unchanged(), split, 8, 0, Shard(), torch.device("cpu"))
    same = Batches(Unchanged(), source, 8, 0, Shard(), torch.device("cpu"))
    for found, expected in zip(batches.epoch(0), same.epoch(0), strict=True):
        assert torch.equal(found.inputs, expected.inputs)
        assert found.targets.dtype == torch.float32


class Moved(Unchanged):
    """A view that moves targets: both get the same number added."""

    def augment_both(
        self, inputs: torch.Tensor, targets: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        added = torch.randint(0, 9, (len(inputs),), generator=generator)
        return inputs.add_(added.to(inputs.dtype)[:, None, None, None]), targets.add_(added)


@pytest.mark.parametrize("views", [None, 2])
def test_targets_may_move_with_their_view(views: int | None) -> None:
    split = numbered(60)
    batches = Batches(Moved(), split, 20, 0, Shard(1, 2), CPU, views)
    for epoch in (0, 1, 2):
        for batch in batches.epoch(epoch):
            assert torch.equal(batch.inputs.flatten(), batch.targets.float())
            assert not torch.equal(batch.targets, batch.chosen)
    assert np.array_equal(split.targets, np.arange(60)), "what is stored stays"
