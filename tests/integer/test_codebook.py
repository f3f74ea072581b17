"""Weights as indices into tables: the same weights again, and half the bytes of a network that was clustered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compression.zoo import trained_looking
from integer.natively import natively
from pocketpipe.compression.codebook import CodebookStep
from pocketpipe.compression.quantization import QuantizationStep
from pocketpipe.exporting.onnx import export_onnx
from pocketpipe.integer import reference
from pocketpipe.integer.codebook import codebook_of, codebooks_of
from pocketpipe.integer.graph import Convolution, Linear
from pocketpipe.integer.lowering import lower
from pocketpipe.network import NETWORKS
from pocketpipe.targets.c99.sources import sources
from pocketpipe.task import Preprocessing, Split

SHAPE = (3, 32, 32)


@given(st.integers(1, 9), st.integers(1, 70), st.integers(1, 40), st.booleans(), st.integers(0, 999))
def test_a_codebook_gives_the_weights_again_in_fewer_bytes(
    channels: int, each: int, values: int, by_channel: bool, seed: int
) -> None:
    random = np.random.default_rng(seed)
    rows = [random.choice(random.integers(-128, 128, values), each) for _ in range(channels if by_channel else 1)]
    weight = np.resize(np.stack(rows), (channels, each, 1)).astype(np.int8)
    codebook = codebook_of(weight)
    if codebook is None:
        assert values > 2 or channels * each < 80  # what has two values and is longer than its tables has one
        return
    assert codebook.nbytes < weight.nbytes
    assert np.array_equal(codebook.weights(weight.shape), weight)


@pytest.mark.parametrize(("values", "bits"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 4), (16, 4)])
def test_as_many_bits_as_the_values_want(values: int, bits: int) -> None:
    weight = np.resize(np.arange(values, dtype=np.int8) * 7 - 50, (8, 40))
    codebook = codebook_of(weight)
    assert codebook is not None
    assert (codebook.bits, codebook.tables.shape, codebook.indices.nbytes) == (bits, (1, values), 40 * bits)
    assert codebook_of(np.resize(np.arange(17, dtype=np.int8), (8, 170))) is None
    each = np.arange(8, dtype=np.int8)[:, None] * 16 + np.resize(np.arange(values, dtype=np.int8), (8, 40))
    codebook = codebook_of(each)
    assert codebook is not None
    assert codebook.tables.shape == (8, values)


@pytest.fixture(scope="module")
def clustered() -> bytes:
    """MLPerf Tiny's ResNet-8 with sixteen values a layer, quantized: as its file."""
    torch.manual_seed(0)
    network = trained_looking(NETWORKS.resolve("resnet8_mlperf_tiny")(SHAPE, 10))
    task: Any = SimpleNamespace(input_shape=SHAPE, preprocessing=Preprocessing())
    images = Split("noise", np.random.default_rng(0).standard_normal((8, *SHAPE)).astype(np.float32), np.zeros(8))
    codebook = CodebookStep(bits=4, grid="int8").pin(network, task, images)
    step = QuantizationStep(ranges="minmax")
    quantized = step.apply(codebook.apply(network, task), task)
    step.calibrate(quantized, network, task, images)
    return export_onnx(quantized.eval(), SHAPE)


def test_a_clustered_networks_constants_are_half_and_its_integers_the_same(clustered: bytes, tmp_path: Path) -> None:
    graph = lower(clustered)
    made = sources(graph)
    plain = sum(operator.weight.nbytes for operator in graph.operators if isinstance(operator, Convolution | Linear))
    shared = sum(codebook.nbytes for codebook in codebooks_of(graph, 0).values())
    assert len(codebooks_of(graph, 0)) == 10
    assert shared < 0.55 * plain
    assert made.constants < 0.62 * (made.constants + plain - shared)
    images = np.random.default_rng(1).integers(-128, 128, (2, *SHAPE)).astype(np.int8)
    (run,) = natively([graph], tmp_path)
    assert np.array_equal(run(images), reference.run(graph, images))


def test_a_saving_below_the_kernels_own_size_is_none(clustered: bytes) -> None:
    graph = lower(clustered)
    small = replace(graph, operators=graph.operators[-1:])  # the last layer: 640 weights
    assert codebooks_of(small, overhead=100)
    assert not codebooks_of(small, overhead=512)
