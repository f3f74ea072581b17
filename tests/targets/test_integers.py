"""Quantized files on the processors: the delivered libraries give the reference's integers, to the last one."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from compression.zoo import zoo
from integer.qdq import statically_quantized
from pocketpipe.delivery.metadata import DeliveryMetadata
from pocketpipe.exporting.onnx import export_onnx
from pocketpipe.integer import reference
from pocketpipe.integer.lowering import lower
from pocketpipe.targets.base import TARGETS
from pocketpipe.task import Preprocessing

SHAPE = (1, 8, 8)


@pytest.mark.parametrize(
    "name",
    [
        "x86_64",
        pytest.param("aarch64", marks=pytest.mark.skipif(not shutil.which("qemu-aarch64"), reason="needs QEMU")),
    ],
)
def test_a_quantized_network_is_compiled_to_the_references_integers(name: str, tmp_path: Path) -> None:
    inputs = np.random.default_rng(0).standard_normal((40, *SHAPE)).astype(np.float32)
    file = statically_quantized(export_onnx(zoo("resnet8", SHAPE), SHAPE), inputs, tmp_path)
    metadata = DeliveryMetadata(
        task="digits", network="resnet8", target=name, input_shape=SHAPE, preprocessing=Preprocessing(), labels=("0",)
    )
    target = TARGETS.resolve(name)
    target.compile(file, metadata, tmp_path / name)
    graph = lower(file)
    assert np.array_equal(
        target.run(tmp_path / name, inputs), graph.real(reference.run(graph, graph.quantized(inputs)))
    )
