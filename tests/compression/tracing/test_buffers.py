"""Predicted working memory against the plans that compilers make of the exported file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from compression.zoo import DIGIT, zoo
from integer.qdq import statically_quantized
from pocketpipe.buffers import MadeInside, end_bytes, peak_bytes
from pocketpipe.compression.tracing import profile_of
from pocketpipe.exporting.onnx import export_onnx
from pocketpipe.integer.lowering import lower
from pocketpipe.profile import STACK_BYTES
from pocketpipe.targets.c99.sources import sources

RGB = (3, 32, 32)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("resnet8", DIGIT),
        pytest.param("resnet20", RGB, marks=pytest.mark.slow),
        pytest.param("resnet8_mlperf_tiny", RGB, marks=pytest.mark.slow),
        pytest.param("mobilenet_v2", RGB, marks=pytest.mark.slow),
    ],
)
def test_the_integer_networks_memory_is_predicted(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    network = zoo(name, shape)
    inputs = np.random.default_rng(0).standard_normal((8, *shape)).astype(np.float32)
    planned = sources(lower(statically_quantized(export_onnx(network, shape), inputs, tmp_path))).arena
    profile = profile_of(network, shape).model_copy(update={"activation_bytes": 1})
    assert peak_bytes(profile.buffers, profile.widths(), 1) == planned
    ram = profile.cost().peak_ram_bytes
    assert ram == planned + end_bytes(profile.buffers, profile.widths(), 1) + STACK_BYTES


def test_a_block_is_known_by_what_it_makes() -> None:
    """resnet8: input, stem; then conv, conv and sum of the first block, which read the stem alone."""
    profile = profile_of(zoo("resnet8", DIGIT), DIGIT)
    assert [block.made for block in profile.blocks] == [MadeInside(entry=1, first=2, end=5)]
    stem, _, _, added = profile.buffers[1:5]
    assert stem.last == 4
    assert stem.elements(profile.widths()) == added.elements(profile.widths()) == 16 * 8 * 8
    assert profile.buffers[-1].last == len(profile.buffers)
    short = profile.without([profile.blocks[0].name])
    assert len(short.buffers) == len(profile.buffers) - 3
    assert short.buffers[1].last == added.last - 3


class Clipping(nn.Module):
    """Two convolutions with a function between them."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.first, self.second = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.second(self.function(self.first(x)))
        return result


@pytest.mark.parametrize(
    "function",
    [
        functional.relu6,
        nn.ReLU6(),
        lambda x: functional.relu6(x, inplace=True),
        lambda x: x.clip(0, 6),
        lambda x: x.clamp(max=6),
        lambda x: torch.clamp_max(x, 6),
    ],
)
def test_what_clips_is_part_of_the_layer_before_it(function: Callable[[Tensor], Tensor]) -> None:
    """As quantization fuses it: no tensor of its own."""
    plain, clipped = (profile_of(Clipping(each), DIGIT).buffers for each in (functional.relu, function))
    assert clipped == plain
