"""Cached outputs of teachers are those of asking them about the same views; several teachers count as their mean."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pocketpipe.compression.distillation import distillation_loss
from pocketpipe.errors import UserError
from pocketpipe.network import StoredNetwork
from pocketpipe.task import Split
from pocketpipe.training.batches import Batches, Shard
from pocketpipe.training.distilling import Distillation, FurtherTeacher
from pocketpipe.training.lessons import Lessons
from pocketpipe.training.recipe import Recipe
from pocketpipe.training.taught import TaughtViews
from pocketpipe.training.teachers import Teachers
from training.samples import RECIPE, Blobs, blobs, plain, train

CPU = torch.device("cpu")
TASK = Blobs()
TRAIN = blobs("train", 200, 0)


def distilling(**options: object) -> Recipe:
    distillation = Distillation.model_validate({"weight": 1.0, **options})
    return RECIPE.model_copy(update={"epochs": 4, "distillation": distillation})


def batches(views: int | None, split: Split = TRAIN, shard: Shard = Shard()) -> Batches:  # noqa: B008  it is frozen
    return Batches(TASK, split, 32, 5, shard, CPU, views)


def by_example(epoch: int, of: Batches) -> dict[int, torch.Tensor]:
    return {int(i): view for batch in of.epoch(epoch) for view, i in zip(batch.inputs, batch.chosen, strict=True)}


def test_views_repeat_and_their_order_does_not() -> None:
    of = batches(views=3)
    first, again, other = (by_example(epoch, of) for epoch in (1, 4, 2))
    assert list(first) != list(again), "another order"
    common = set(first) & set(again) & set(other)
    assert len(common) > 100
    assert all(torch.equal(first[i], again[i]) for i in common)
    assert not any(torch.equal(first[i], other[i]) for i in common)
    whole = torch.cat(list(of.view(1)))
    assert all(torch.equal(first[i], whole[i]) for i in first)


def test_every_process_sees_its_part_of_the_same_views() -> None:
    whole = list(batches(views=2).epoch(3))
    parts = [list(batches(views=2, shard=Shard(rank, 2)).epoch(3)) for rank in range(2)]
    for index, batch in enumerate(whole):
        assert torch.equal(batch.inputs, torch.cat([part[index].inputs for part in parts]))
        assert torch.equal(batch.chosen, torch.cat([part[index].chosen for part in parts]))


def test_views_are_kept_under_autocast_too(tmp_path: Path) -> None:
    """Autocast to bfloat16 does not know float16 on a CPU."""
    with torch.autocast("cpu", torch.bfloat16):
        TaughtViews(tmp_path).make(0, [torch.tensor([[3.0, 1.0]]), torch.tensor([[0.0, 2.0]])], lambda part: part)
    assert TaughtViews(tmp_path).of(0, torch.tensor([0, 1])).tolist() == [[0.0, -2.0], [-2.0, 0.0]]


def test_what_is_kept_is_what_the_teachers_say_to_the_same_views(tmp_path: Path) -> None:
    torch.manual_seed(0)
    teachers = Teachers([plain(TASK.input_shape, 4), plain(TASK.input_shape, 4)], temperature=2.0)
    kept, of = Lessons(teachers, cache=TaughtViews(tmp_path)), batches(views=2)
    for epoch in (0, 1, 2):
        kept.prepare(of.view_of(epoch), of.view(of.view_of(epoch)))
        for batch in of.epoch(epoch):
            cached, asked = kept.on(batch, of.view_of(epoch)).outputs, Lessons(teachers).on(batch, 0).outputs
            assert (cached.softmax(1) - asked.softmax(1)).abs().max() < 1e-3
    assert sorted(file.name for file in tmp_path.iterdir()) == ["view-0.npy", "view-1.npy"]
    assert np.load(tmp_path / "view-0.npy").dtype == np.float16


def test_large_logits_keep_their_digits(tmp_path: Path) -> None:
    """float16 alone would round 1000.3 to 1000.5: kept is the distance to the largest."""
    logits = torch.tensor([[1000.0, 1000.3, 990.0]])
    cache = TaughtViews(tmp_path)
    cache.make(0, [logits], lambda part: part)
    found = cache.of(0, torch.tensor([0]))
    assert torch.allclose(found.softmax(1), logits.softmax(1), atol=2e-3)


def test_a_class_that_is_ruled_out_is_no_infinity(tmp_path: Path) -> None:
    cache = TaughtViews(tmp_path)
    cache.make(0, [torch.tensor([[0.0, 1.0, -1e9]])], lambda part: part)
    found = cache.of(0, torch.tensor([0]))
    loss = distillation_loss(torch.zeros(1, 3, requires_grad=True), found, 4.0)
    assert torch.isfinite(loss)
    assert found.softmax(1)[0, 2] == 0


def test_a_cached_training_ends_where_the_asking_one_does(
    tmp_path: Path, teacher: StoredNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = distilling(cached_views=2)
    cached = train(tmp_path / "cached", recipe=recipe, teacher=teacher)
    assert not (tmp_path / "cached" / "taught").exists(), "gone with the training"
    monkeypatch.setattr(Lessons, "prepare", lambda *arguments: None)
    monkeypatch.setattr(Lessons, "on", lambda self, batch, view: self.teachers(batch.inputs))
    asked = train(tmp_path / "asked", recipe=recipe, teacher=teacher)
    for name, weights in asked.network.state.items():
        assert torch.allclose(weights.float(), cached.network.state[name].float(), atol=5e-3), name
    assert cached.network.digest() != asked.network.digest(), "float16 shows: the cache was used"


def test_a_resumed_training_finds_the_outputs_again(
    tmp_path: Path, teacher: StoredNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = distilling(cached_views=1)
    whole = train(tmp_path / "whole", recipe=recipe, teacher=teacher)
    asked: list[int] = []
    original = Teachers.__call__

    def stop_later(self: Teachers, inputs: torch.Tensor) -> object:
        asked.append(len(inputs))
        return original(self, inputs)

    monkeypatch.setattr(Teachers, "__call__", stop_later)
    calls = iter([1.0, InterruptedError()])
    with monkeypatch.context() as patch:
        patch.setattr("pocketpipe.training.train.metric_of", lambda *a: _raise_or(next(calls)))
        with pytest.raises(InterruptedError):
            train(tmp_path / "work", recipe=recipe, teacher=teacher)
    resumed = train(tmp_path / "work", recipe=recipe, teacher=teacher)
    assert sum(asked) == len(TRAIN), "about each example once"
    assert resumed.network.digest() == whole.network.digest()


def _raise_or(value: float | Exception) -> float:
    if isinstance(value, Exception):
        raise value
    return value


def test_further_teachers_come_from_files_and_count_by_their_content(
    tmp_path: Path, teacher: StoredNetwork, other: StoredNetwork
) -> None:
    weights = tmp_path / "other.safetensors"
    save_file(dict(other.state), weights)
    named = FurtherTeacher(name="training.samples:normalized", weights=weights)
    both = train(tmp_path / "both", recipe=distilling(teachers=[named]), teacher=teacher)
    alone = train(tmp_path / "alone", recipe=distilling(), teacher=teacher)
    assert both.network.digest() != alone.network.digest()

    save_file(dict(teacher.state), weights)  # two teachers that say the same are one
    same = train(tmp_path / "both", recipe=distilling(teachers=[named]), teacher=teacher)
    for name, tensor in same.network.state.items():
        assert torch.allclose(tensor.float(), alone.network.state[name].float(), atol=1e-3), name


def test_a_further_teacher_may_lie_in_the_file_in_another_number_format(tmp_path: Path, other: StoredNetwork) -> None:
    halves = {name: tensor.bfloat16() if tensor.is_floating_point() else tensor for name, tensor in other.state.items()}
    save_file(halves, tmp_path / "other.safetensors")
    named = FurtherTeacher(name="training.samples:normalized", weights=tmp_path / "other.safetensors")
    assert train(tmp_path / "student", recipe=distilling(teachers=[named])).curves["val_accuracy"][-1] > 0.8


def test_further_teachers_need_no_first_one(tmp_path: Path, other: StoredNetwork) -> None:
    weights = tmp_path / "other.safetensors"
    save_file(dict(other.state), weights)
    named = FurtherTeacher(name="training.samples:normalized", weights=weights)
    assert train(tmp_path / "student", recipe=distilling(teachers=[named])).curves["val_accuracy"][-1] > 0.8


def test_a_teachers_file_that_is_missing_or_does_not_fit(tmp_path: Path) -> None:
    named = FurtherTeacher(name="training.samples:plain", weights=tmp_path / "none.safetensors")
    with pytest.raises(UserError, match=r"none.safetensors: there is no such file"):
        train(tmp_path / "work", recipe=distilling(teachers=[named]))
    save_file(
        dict(StoredNetwork("training.samples:normalized").build(TASK).state_dict()), tmp_path / "none.safetensors"
    )
    with pytest.raises(UserError, match=r"weights do not fit network 'training.samples:plain'"):
        train(tmp_path / "work", recipe=distilling(teachers=[named]))


def test_no_gradient_reaches_a_teacher() -> None:
    network = plain(TASK.input_shape, 4)
    response = Teachers([network], 1.0, points=("0",))(torch.zeros(2, *TASK.input_shape, requires_grad=True))
    assert not response.outputs.requires_grad
    assert not response.features[0].requires_grad
    assert not any(parameter.requires_grad for parameter in network.parameters())
