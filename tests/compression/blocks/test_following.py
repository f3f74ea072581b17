"""Reconstruction behind blocks that went, against NumPy's least squares, and which layers it reaches."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from compression.zoo import DIGIT, zoo
from pocketpipe.compression.blocks import BlocksStep
from pocketpipe.compression.blocks.following import reconstruct_shortened
from pocketpipe.compression.refitting import RIDGE
from pocketpipe.compression.sparsity.mask import Mask
from pocketpipe.compression.taking_out import moved_up, put
from pocketpipe.compression.tracing import profile_of, trace
from pocketpipe.compression.weights import lay_on
from pocketpipe.plan import CompressionPlan
from pocketpipe.task import TASKS, Split, Task

WIDTH = 6
EXAMPLES = torch.randn(300, WIDTH, generator=torch.Generator().manual_seed(0))


class Hidden(nn.Module):
    """A block that adds two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, 9)
        self.second = nn.Linear(9, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, WIDTH) -> the same."""
        return x + self.second(self.first(x).relu())  # type: ignore[no-any-return]


def chain() -> nn.Sequential:
    """A layer, four blocks, a layer."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Sequential(*(Hidden() for _ in range(4))), nn.Linear(WIDTH, 3))


def without(network: nn.Module, *removed: str) -> tuple[nn.Module, tuple[str, ...]]:
    """(the network without these blocks, reconstructed; the layers that were refitted)."""
    shorter = copy.deepcopy(network)
    runs = profile_of(network, (WIDTH,)).runs
    for run in runs:
        put(shorter, moved_up(shorter, run, [path for path in run if path not in removed]))
    traced = trace(network, (WIDTH,))
    return shorter, reconstruct_shortened(shorter, network, traced, runs, removed, EXAMPLES, statistics="kept")


def fit_by_numpy(inputs: Tensor, outputs: Tensor, weight: Tensor) -> np.ndarray:
    """Ridge regression around `weight`, with a constant."""
    x, y, start = (tensor.double().numpy() for tensor in (inputs, outputs, weight))
    x, y = x - x.mean(0), y - y.mean(0)
    ridge = np.sqrt(RIDGE * np.square(x).sum(0).mean())
    stacked = np.concatenate([x, ridge * np.eye(x.shape[1])]), np.concatenate([y, ridge * start.T])
    found: np.ndarray = np.linalg.lstsq(*stacked)[0].T
    return found


@torch.no_grad()
def test_a_block_that_moved_up_is_fitted_to_what_it_put_out_where_it_was() -> None:
    network = chain()
    shorter, _ = without(network, "1.0", "1.1")
    entry = network[0](EXAMPLES)
    was = network[1][2]
    wanted = was.first(network[1][:2](entry))
    expected = fit_by_numpy(entry, wanted, was.first.weight)
    np.testing.assert_allclose(shorter.get_submodule("1.0.first").weight.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_what_comes_before_the_first_that_went_stays() -> None:
    network = chain()
    shorter, refitted = without(network, "1.1")
    assert refitted == ("1.1.first", "1.1.second", "1.2.first", "1.2.second", "2")
    assert all(
        torch.equal(shorter.state_dict()[name], network.state_dict()[name]) for name in ("0.weight", "1.0.first.weight")
    )


def test_after_the_last_block_only_the_head_is_left_to_fit() -> None:
    assert without(chain(), "1.2", "1.3")[1] == ("2",)


def test_masked_layers_keep_their_weights() -> None:
    network = chain()
    lay_on(network, "1.3.first", Mask(torch.arange(9 * WIDTH).reshape(9, WIDTH) % 2 == 0))
    assert "1.2.first" not in without(network, "1.0")[1]


def test_it_brings_the_outputs_nearer_on_examples_that_it_has_not_seen() -> None:
    task: Task = TASKS.resolve("digits")(Path())
    network = zoo("resnet20", DIGIT)
    noise = np.random.default_rng(1).integers(0, 17, (600, *DIGIT), np.uint8)
    data, x = Split("noise", noise[:400], np.zeros(400, np.int64)), task.preprocessing(noise[400:])
    step = BlocksStep(removed=("layer1.1", "layer2.1", "layer3.2"))
    with torch.no_grad():
        wanted, errors = network(torch.from_numpy(x)), []
        for reconstruction in (None, "least_squares"):
            plan = CompressionPlan((step.model_copy(update={"reconstruction": reconstruction}),))
            shorter, _ = plan.carry_out(network, task, data)
            errors.append(float((shorter.eval()(torch.from_numpy(x)) - wanted).square().mean()))
    assert errors[1] < 0.6 * errors[0]
