"""Torch's own recurrent modules under the methods that change weights: what the file computes, and its size."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from compression.noise import Noise
from pocketpipe.compression.channels.step import ChannelsStep
from pocketpipe.compression.codebook.step import CodebookStep
from pocketpipe.compression.sparsity.step import SparsityStep
from pocketpipe.compression.tracing import profile_of
from pocketpipe.compression.weights import original_of, weight_of
from pocketpipe.exporting.executing import run_onnx
from pocketpipe.exporting.onnx import export_onnx
from pocketpipe.exporting.packing import pack, packed
from pocketpipe.plan import CompressionPlan
from pocketpipe.task import Split

SHAPE = (6, 8)
DATA = Split("noise", np.random.default_rng(0).random((8, *SHAPE), np.float32), np.zeros(8, np.int64))
MODULES = {
    "lstm": nn.LSTM,
    "gru, two layers, both directions": partial(nn.GRU, num_layers=2, bidirectional=True),
    "rnn": nn.RNN,
}


class OfSequences(Noise):
    input_shape = SHAPE


TASK = OfSequences()


class Sequences(nn.Module):
    """A recurrent module and a head on its last output."""

    def __init__(self, recurrent: Callable[..., nn.RNNBase], features: int = SHAPE[-1], outputs: int = 4) -> None:
        super().__init__()
        self.inside = recurrent(features, 32, batch_first=True)
        self.head = nn.Linear(32 * (1 + self.inside.bidirectional), outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.inside(x)[0][:, -1])
        return logits


@pytest.mark.parametrize("name", MODULES)
def test_channels_masks_and_tables_on_one_module(name: str) -> None:
    torch.manual_seed(0)
    network = Sequences(MODULES[name]).eval()
    dense = export_onnx(network, SHAPE)
    profile = profile_of(network, SHAPE).in_file_of(len(dense), packed(dense).overhead)
    (group,) = profile.slimmable
    plan = CompressionPlan(
        (ChannelsStep(criterion="l1", widths={group.name: 24}), SparsityStep(density=0.5), CodebookStep(bits=3))
    )

    made, pinned = plan.carry_out(network, TASK, DATA)

    for layer in profile.layers:
        weight = weight_of(made, layer.name)
        if weight.dim() > 1:
            assert int(weight.count_nonzero()) <= weight.numel() // 2
            assert len(weight.unique()) <= 8
    inputs = np.random.default_rng(0).normal(size=(3, *SHAPE)).astype(np.float32)
    with torch.no_grad():
        expected = made(torch.from_numpy(inputs)).numpy()
    file = export_onnx(made, SHAPE)
    assert np.allclose(run_onnx(file, inputs), expected, atol=1e-6)
    assert len(pack(file)) <= pinned.predict(profile).cost().file_bytes < len(dense) / 2


def test_masks_hold_while_it_is_trained() -> None:
    torch.manual_seed(0)
    made, _ = CompressionPlan((SparsityStep(density=0.25),)).carry_out(Sequences(nn.LSTM), TASK, DATA)
    layer = "inside.weight_hh_l0"
    before = weight_of(made, layer).detach().clone()
    optimizer = torch.optim.SGD(made.parameters(), lr=1.0)
    for _ in range(2):
        optimizer.zero_grad()
        made.train()(torch.randn(4, *SHAPE)).square().sum().backward()
        optimizer.step()
    after = weight_of(made, layer)
    assert torch.equal(after == 0, before == 0)
    assert not torch.equal(after, before)
    assert original_of(made, layer).grad is not None
