"""What a network must answer to be trained, and taught."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pocketpipe.errors import UserError
from pocketpipe.training.answers import answer_shape, has_idle_parameters
from pocketpipe.training.distilling import Distillation
from training.samples import Auxiliary, Blobs, auxiliary, idle, normalized, train


class Wide(Auxiliary):
    """More outputs while it is trained."""

    def forward(self, inputs: torch.Tensor) -> object:
        return self.body(inputs).repeat(1, 2) if self.training else self.body(inputs)


class Failing(Auxiliary):
    """Fails while it is trained."""

    def forward(self, inputs: torch.Tensor) -> object:
        return self.body(inputs.flatten() if self.training else inputs)


def test_parameters_that_no_answer_comes_from_are_found() -> None:
    network = idle((1, 6, 6), 4)
    assert has_idle_parameters(network, (1, 6, 6))
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not has_idle_parameters(normalized((1, 6, 6), 4), (1, 6, 6))


def test_the_shape_of_an_answer_leaves_the_network_as_it_was() -> None:
    network = normalized(Blobs.input_shape, 4)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    generator = torch.random.get_rng_state()
    assert answer_shape(network, Blobs.input_shape) == (4,)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), generator)


class Viewing(nn.Module):
    """Flattens as tutorials do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(64, 4)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(inputs).view(len(inputs), -1))


def test_a_view_of_images_that_lie_channels_last_is_told_with_its_way_out() -> None:
    with pytest.raises(UserError, match=r"write x.flatten\(1\) or x.reshape"):
        answer_shape(Viewing(), Blobs.input_shape)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Auxiliary, "network: answers with a tuple while it is trained; return one tensor in both modes"),
        (Wide, r"network: answers \(8,\) while it is trained, \(4,\) afterwards"),
        (Failing, "network: it fails on two examples of zeros, while it is trained"),
    ],
)
def test_another_answer_in_training_is_told(kind: type[nn.Module], said: str) -> None:
    with pytest.raises(UserError, match=said):
        answer_shape(kind(Blobs.input_shape, 4), Blobs.input_shape)


def test_a_training_does_not_begin_with_such_a_network(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="answers with a tuple while it is trained"):
        train(tmp_path, network=auxiliary)


@pytest.mark.parametrize(("answer", "labels"), [((), 1), ((1,), 1), ((1,), 2), ((4, 32, 32), 4), ((2, 7), 2)])
def test_only_a_choice_among_labels_can_be_softened(answer: tuple[int, ...], labels: int) -> None:
    with pytest.raises(UserError, match="distillation: outputs are softened along the last axis"):
        Distillation().check(answer, labels)


def test_choices_among_labels_may_have_positions() -> None:
    Distillation().check((4,), 4)
    Distillation().check((16, 4), 4)


def test_a_label_to_be_ignored_is_told_where_classes_are_looked_at() -> None:
    masks = np.array([[0, 3], [255, 1]], np.uint8)
    Distillation().check((2, 4), 4, masks)
    with pytest.raises(UserError, match=r"targets from 0 to 255 are not all of 4 labels, which dkd and mistakes"):
        Distillation(mistakes="corrected").check((2, 4), 4, masks)


@pytest.mark.parametrize("targets", [np.zeros((9, 4), np.float32), np.zeros(9, np.float32), np.zeros((9, 4), np.int64)])
def test_targets_that_are_no_choice_among_labels_are_not_softened(targets: np.ndarray) -> None:
    """Two coordinates, or several labels at once, come in the shape of a choice."""
    with pytest.raises(UserError, match=r"targets are .* for an example, no such choice; set distillation to null"):
        Distillation().check((4,), 4, targets)
    Distillation().check((4,), 4, np.zeros(9, np.int64))


class Skipping(nn.Module):
    """LayerDrop: a layer is skipped by chance, one time in three."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skipped = self.training and torch.rand(()) < 1 / 3
        return self.head(x if skipped else self.layer(x))


def test_parameters_that_idle_by_chance_are_found() -> None:
    assert has_idle_parameters(Skipping(), (4,))


class Squeezing(nn.Module):
    """Its batch axis goes with the others where it is 1."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(nn.functional.adaptive_avg_pool2d(self.conv(x), 1).squeeze())


class Changing(nn.Linear):
    """Scales its input where it lies, which other networks are shown, too."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x *= 2
        return super().forward(x)


def test_a_network_that_changes_its_input_is_told_before_any_work() -> None:
    with pytest.raises(UserError, match="its forward changes its input where it lies"):
        answer_shape(Changing(4, 2), (4,))


def test_an_answer_without_a_batch_axis_is_told_before_any_work() -> None:
    with pytest.raises(UserError, match=r"answers \(2,\) to one example, \(2, 2\) to two; it drops the batch axis"):
        answer_shape(Squeezing(), (1, 6, 6))
