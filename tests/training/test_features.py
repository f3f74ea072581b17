"""Where student and teacher are compared, and what is learned there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pocketpipe.errors import UserError
from pocketpipe.network import StoredNetwork
from pocketpipe.networks.resnet_mlperf_tiny import resnet8_mlperf_tiny
from pocketpipe.training.batches import Batches, Shard
from pocketpipe.training.callbacks import EpochCheckpoint
from pocketpipe.training.distilling import Attention, Distillation, Hints
from pocketpipe.training.features import FeatureDistance, Watched, common_points, shapes_made, width
from training.samples import RECIPE, Blobs, blobs, narrow, normalized, train

IMAGE = (3, 32, 32)


class Rows(nn.Module):
    """(N, 5, 3) -> (N, 5, width) -> logits: three axes are positions and channels."""

    def __init__(self, inner: int) -> None:
        super().__init__()
        self.inner = nn.Linear(3, inner)
        self.outer = nn.Linear(inner, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.inner(x).relu().mean(1))


def test_the_last_module_of_each_resolution_is_found() -> None:
    shapes = shapes_made(resnet8_mlperf_tiny(IMAGE, 10), IMAGE)
    assert common_points(shapes, shapes, None) == ("stacks.0", "stacks.1", "stacks")
    assert shapes["stacks.1"] == (32, 16, 16)
    assert width(shapes["stacks.1"]) == 32
    assert "linear" not in shapes, "one position is no map"


def test_of_sequences_the_last_axis_is_the_channels() -> None:
    student, teacher = (shapes_made(Rows(inner), (5, 3)) for inner in (4, 8))
    assert common_points(student, teacher, None) == ("inner",)
    assert (width(student["inner"]), width(teacher["inner"])) == (4, 8)


def test_along_a_line_the_channels_come_first() -> None:
    """A thinned student is compared position by position; an activation does not say which axis is which."""

    def network(width: int) -> nn.Module:
        return nn.Sequential(nn.Conv1d(2, width, 3), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(3 * width, 3))

    own, taught = (shapes_made(network(width), (2, 8)) for width in (4, 6))
    assert own == {"0": (6, 4), "2": (3, 4)}
    assert common_points(own, taught, None) == ("0", "2")
    x = torch.randn(5, 2, 8)
    dense = network(6)
    _, (made, _) = Watched(dense, ("0", "2")).forward(x)
    assert torch.equal(made, dense[0](x).transpose(1, 2))


def test_named_points_must_fit_both() -> None:
    student = {"a": (4, 8, 8), "b": (4, 4, 4)}
    teacher = {"a": (9, 8, 8), "b": (9, 2, 2)}
    assert common_points(student, teacher, ["a"]) == ("a",)
    with pytest.raises(UserError, match=r"points: b, c: no maps of the same size .* possible: a"):
        common_points(student, teacher, ["a", "b", "c"])
    with pytest.raises(UserError, match="set features to null"):
        common_points({"b": (4, 4, 4)}, teacher, None)


def test_what_is_watched_is_what_the_modules_make() -> None:
    network = normalized((1, 6, 6), 4).eval()
    watched = Watched(network, ("0", "2"))
    inputs = torch.randn(3, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    outputs, (first, second) = watched.forward(inputs)
    assert torch.equal(outputs, network(inputs))
    assert torch.equal(first, network[0](inputs))
    assert torch.equal(second, network[1](first).relu())


def test_regressors_are_there_only_where_hints_differ_in_width() -> None:
    hints = FeatureDistance(Hints(kind="hints"), (4, 8), (8, 8))
    assert [parameter.shape for parameter in hints.parameters()] == [(8, 4), (8,)]
    assert not list(FeatureDistance(Attention(kind="attention"), (4,), (8,)).parameters())


def test_features_in_bf16_are_compared_in_float32() -> None:
    own, taught = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 4, 4)
    distance = FeatureDistance(Hints(kind="hints"), [3], [5])
    found = distance([own.bfloat16()], [taught.bfloat16()])
    assert found.dtype == torch.float32
    assert torch.allclose(found, distance([own], [taught]), rtol=0.02)


def test_a_regressor_is_a_1x1_convolution() -> None:
    distance = FeatureDistance(Hints(kind="hints", weight=3.0), (2,), (5,))
    generator = torch.Generator().manual_seed(0)
    own = torch.randn(4, 2, 3, 3, generator=generator)
    taught = torch.randn(4, 5, 3, 3, generator=generator)
    linear = distance.regressors[0]
    regressed = nn.functional.conv2d(own, linear.weight[:, :, None, None], linear.bias)
    assert torch.allclose(distance([own], [taught]), 3.0 * (regressed - taught).square().mean() / 2)


def test_a_student_learns_to_look_where_its_teacher_does(tmp_path: Path, teacher: StoredNetwork) -> None:
    features = Attention(kind="attention", weight=3.0, points=("2",))
    plain = RECIPE.model_copy(update={"epochs": 6})
    taught = plain.model_copy(update={"distillation": Distillation(weight=0.0, features=features)})
    students = [
        train(tmp_path / str(r.distillation), network=narrow, recipe=r, teacher=teacher) for r in (plain, taught)
    ]
    distances = [_distance_of_maps(student.network, teacher) for student in students]
    assert distances[1] < 0.5 * distances[0]


def test_regressors_are_trained_resumed_and_not_delivered(tmp_path: Path, teacher: StoredNetwork) -> None:
    hints = Distillation(weight=0.0, features=Hints(kind="hints", points=("2",)))
    recipe = RECIPE.model_copy(update={"epochs": 2, "ema": 0.9, "distillation": hints})
    fitted = train(tmp_path / "student", network=narrow, recipe=recipe, teacher=teacher)
    own = StoredNetwork("training.samples:narrow").build(Blobs()).state_dict()
    assert set(fitted.network.state) == set(own)

    saved: list[Tensor] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EpochCheckpoint, "on_train_epoch_end", _stopping(EpochCheckpoint.on_train_epoch_end, saved))
        with pytest.raises(InterruptedError):
            train(tmp_path / "stopped", network=narrow, recipe=recipe, teacher=teacher)
    assert saved[0].shape == (8, 3), "the regressor is in the checkpoint"
    resumed = train(tmp_path / "stopped", network=narrow, recipe=recipe, teacher=teacher)
    assert resumed.network.digest() == fitted.network.digest()


def _stopping(original: Callable[..., None], saved: list[Tensor]) -> Callable[..., None]:
    """Stop after the first epoch's checkpoint, and keep what it holds of the regressor."""

    def stop(self: EpochCheckpoint, *arguments: Any) -> None:
        original(self, *arguments)
        state = torch.load(self._file, weights_only=True)["state_dict"]
        saved.append(state["objective.features.regressors.0.weight"])
        raise InterruptedError

    return stop


def _distance_of_maps(student: StoredNetwork, teacher: StoredNetwork) -> float:
    """As attention transfer measures it, on a view that training did not show (unaugmented images are brighter)."""
    task = Blobs()
    (inputs,) = Batches(task, blobs("val", 80, 1), 80, 99, Shard(), torch.device("cpu"), views=1).view(0)
    maps = []
    for stored in (student, teacher):
        with torch.no_grad():
            _, (features,) = Watched(stored.build(task), ("2",)).forward(inputs)
        maps.append(nn.functional.normalize(features.square().sum(1).flatten(1), dim=1))
    return float((maps[0] - maps[1]).square().mean())


def test_a_module_that_a_step_skips_is_named() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3))
    watched = Watched(network, ("1",))
    network[1] = nn.Identity()
    with pytest.raises(UserError, match="1: did not run in a training step"):
        watched.forward(torch.zeros(2, 1, 8, 8))
