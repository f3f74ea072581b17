"""Rows of a layer's inputs and outputs: whatever the geometry, one is the product of the other with the weight."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pocketpipe.compression.members import Reader, reading_module
from pocketpipe.compression.sampling import (
    FEWEST,
    calibration,
    columns_of,
    input_rows,
    output_rows,
    sampled,
    training_views,
    watched,
)
from pocketpipe.errors import UserError
from pocketpipe.task import Preprocessing, Split
from pocketpipe.tasks.digits import Digits

LAYERS: list[tuple[Any, tuple[int, ...]]] = [
    (nn.Conv2d(3, 5, 3), (3, 8, 9)),
    (nn.Conv2d(3, 5, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 3), bias=False), (3, 8, 9)),
    (nn.Conv2d(3, 5, (4, 3), padding="same", dilation=2), (3, 8, 9)),
    (nn.Conv2d(3, 5, 3, padding=1, padding_mode="circular"), (3, 8, 9)),
    (nn.Conv2d(3, 5, 3, padding=(2, 1), padding_mode="reflect", stride=3), (3, 8, 9)),
    (nn.Conv1d(3, 5, 3, padding=1, stride=2), (3, 11)),
    (nn.Conv3d(2, 4, (1, 2, 3), padding=(0, 1, 1)), (2, 3, 4, 5)),
    (nn.Linear(6, 4), (6,)),
    (nn.Linear(6, 4, bias=False), (7, 6)),
]


@pytest.mark.parametrize(("layer", "shape"), LAYERS)
@pytest.mark.parametrize("rows", [20, 10_000])
@torch.no_grad()
def test_inputs_times_weight_are_outputs(layer: Any, shape: tuple[int, ...], rows: int) -> None:
    inputs = torch.randn(4, *shape, generator=torch.Generator().manual_seed(1))
    output = layer(inputs)
    positions = sampled(layer, output, rows, torch.Generator().manual_seed(0))
    x, y = input_rows(layer, inputs, positions), output_rows(layer, output, positions)
    bias = 0 if layer.bias is None else layer.bias
    assert torch.allclose(x @ layer.weight.flatten(1).T + bias, y, atol=1e-5)
    if rows > output.numel():
        assert len(y) * layer.weight.shape[0] == output.numel()  # every position, once
        assert torch.allclose(y.sum(), output.sum(), rtol=1e-4)
    else:
        assert len(y) <= rows


def test_channels_last_inputs_give_the_same_rows() -> None:
    layer, inputs = nn.Conv2d(3, 5, 3, padding=1), torch.randn(2, 3, 6, 6)
    positions = torch.tensor([[0, 7], [35, 3]])
    last = inputs.contiguous(memory_format=torch.channels_last)
    assert torch.equal(input_rows(layer, inputs, positions), input_rows(layer, last, positions))


def test_columns_belong_to_channels() -> None:
    layer = nn.Conv2d(4, 2, 3)
    columns = columns_of(layer, Reader("layer", torch.tensor([[2], [0]])))
    weight = layer.weight.detach()
    assert torch.equal(weight.flatten(1)[:, columns[0]], weight[:, 2].flatten(1))
    assert torch.equal(weight.flatten(1)[:, columns[1]], weight[:, 0].flatten(1))


def test_only_plain_products_are_read() -> None:
    network = nn.ModuleDict(
        {
            "plain": nn.Conv2d(4, 4, 1),
            "grouped": nn.Conv2d(4, 4, 1, groups=2),
            "depthwise": nn.Conv2d(4, 4, 1, groups=4),
            "transposed": nn.ConvTranspose2d(4, 4, 1),
            "linear": nn.Linear(4, 4),
            "norm": nn.BatchNorm2d(4),
        }
    )
    assert [name for name in network if reading_module(network, name) is not None] == ["plain", "linear"]
    assert reading_module(network, "plain.weight") is None
    assert reading_module(network, "nowhere") is None


def test_hooks_are_gone_after_an_error() -> None:
    network = nn.Sequential(nn.Linear(2, 2))

    def fail(*seen: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), watched(network, ["0"], fail):
        network(torch.zeros(1, 2))
    network(torch.zeros(1, 2))


def _task(shape: tuple[int, ...]) -> Any:
    return SimpleNamespace(input_shape=shape, preprocessing=Preprocessing())


def test_large_examples_are_taken_in_smaller_numbers() -> None:
    split = Split("noise", np.zeros((600, 1), np.float32), np.arange(600))
    inputs, targets = calibration(_task((1,)), split, torch.device("cpu"), wanted_by="x")
    assert (len(inputs), targets.tolist()) == (512, list(range(512)))
    few, _ = calibration(_task((3, 1000, 1000)), split, torch.device("cpu"), wanted_by="x")
    assert len(few) == FEWEST


def test_training_views_are_augmented_and_repeat() -> None:
    task, data = Digits(), Digits().load(seed=0, holdout=None)[0].val
    device = torch.device("cpu")
    views, again = (training_views(task, data, device, wanted_by="x") for _ in range(2))
    plain, _ = calibration(task, data, device, wanted_by="x")
    assert torch.equal(views, again)
    assert views.shape == plain.shape
    unmoved = (views == plain).flatten(1).all(1)
    assert 0 < unmoved.sum() < len(plain) / 2


@pytest.mark.parametrize("split", [None, Split("empty", np.zeros((0, 1)), np.zeros(0))])
def test_no_examples_are_named_with_who_wants_them(split: Any) -> None:
    with pytest.raises(UserError, match=r"^channels.criterion: taylor needs calibration examples"):
        calibration(_task((1,)), split, torch.device("cpu"), wanted_by="channels.criterion: taylor")
