"""A small quantized network that reads digits as they are stored, for the targets that deliver C. Not to be changed."""

from __future__ import annotations

import sys
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

from integer.qdq import statically_quantized
from pocketpipe.delivery.metadata import DeliveryMetadata
from pocketpipe.integer import reference
from pocketpipe.integer.graph import IntegerGraph
from pocketpipe.integer.lowering import lower
from pocketpipe.task import TASKS, Split, Splits
from targets.graphs import Graph

TASK = TASKS.resolve("digits")(Path())
ZIG = (sys.executable, "-m", "ziglang", "cc")
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O2")


@cache
def data() -> tuple[Splits, Split]:
    return TASK.load(seed=0, holdout=None)


@cache
def float_file() -> bytes:
    """Two convolutions around a shortcut, a strided one, pooling, a linear layer."""
    graph = Graph((1, 8, 8))
    first = graph.op("Relu", graph.conv("input", 1, 12))
    second = graph.op("Relu", graph.op("Add", graph.conv(first, 12, 12), first))
    third = graph.op("Relu", graph.conv(second, 12, 20, strides=[2, 2]))
    pooled = graph.op("Flatten", graph.op("GlobalAveragePool", third))
    return graph.finish(graph.linear(pooled, 20, 10))


@cache
def quantized_file() -> bytes:
    inputs = TASK.preprocessing(data()[0].train.inputs[:32])
    with tempfile.TemporaryDirectory() as folder:
        return statically_quantized(float_file(), inputs, Path(folder))


@cache
def graph() -> IntegerGraph:
    return lower(quantized_file())


def metadata(target: str) -> DeliveryMetadata:
    stored = data()[0].train.inputs.dtype
    return DeliveryMetadata(
        task="digits", network="small", target=target, input_shape=TASK.input_shape, input_dtype=str(stored),
        preprocessing=TASK.preprocessing, labels=TASK.labels, hashes={"onnx": "0" * 64},
    )  # fmt: skip


def golden_examples() -> np.ndarray:
    return data()[0].val.inputs[:8]


def right(stored: np.ndarray) -> np.ndarray:
    """What every target must give for stored examples: the real numbers of the reference's integers."""
    integers = graph().quantized(TASK.preprocessing(stored))
    return graph().real(reference.run(graph(), integers))


def files(folder: Path) -> dict[str, bytes]:
    found = sorted(file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in found}
