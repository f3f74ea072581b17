"""The C sources against the reference of the integer graph: the same integers, under the strictest compiler flags."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from compression.zoo import zoo
from integer.qdq import File, statically_quantized
from pocketpipe.delivery.folder import RUN, RUNNER_SOURCE, write_runner
from pocketpipe.exporting.onnx import export_onnx
from pocketpipe.integer import reference
from pocketpipe.integer.graph import IntegerGraph
from pocketpipe.integer.lowering import lower
from pocketpipe.targets.c99.emitting import HEADER, MODEL, sources
from pocketpipe.targets.toolchain import find_toolchain

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O2")


def run_c(graph: IntegerGraph, inputs: np.ndarray, folder: Path, entry: np.ndarray | None = None) -> np.ndarray:
    """int8 outputs (N, ...) of the compiled C files."""
    for name, text in sources(graph, entry).files.items():
        (folder / name).write_text(text)
    entering, leaving = graph.tensors[graph.input], graph.tensors[graph.output]
    kind = "int8_t" if entry is None else "uint8_t"
    write_runner(folder, header=HEADER, run=RUN, inputs=(kind, entering.elements), outputs=("int8_t", leaving.elements))
    compiler = find_toolchain("x86_64").shared
    subprocess.run([*compiler[:2], *STRICT, RUNNER_SOURCE, MODEL, "-o", "run"], cwd=folder, check=True)
    inputs.tofile(folder / "input.bin")
    subprocess.run([folder / "run", "input.bin", "output.bin"], cwd=folder, check=True)
    return np.fromfile(folder / "output.bin", np.int8).reshape(len(inputs), *leaving.shape)


def some(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((8, *shape)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "shape"), [("resnet8", (1, 8, 8)), ("lenet", (1, 28, 28)), ("mobilenet_v2", (3, 16, 16))]
)
def test_networks_give_the_integers_of_the_reference(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    inputs = some(0, *shape)
    graph = lower(statically_quantized(export_onnx(zoo(name, shape), shape), inputs, tmp_path))
    integers = graph.quantized(inputs)
    assert np.array_equal(run_c(graph, integers, tmp_path), reference.run(graph, integers))


def every_operator() -> bytes:
    """One file with every operator that the zoo does not have."""
    file = File((4, 6, 6))
    random = np.random.default_rng(0)
    x = file.on_grid("input", 0.0307, -9)
    grid = (0.0231, 4)
    gate = file.on_grid(file.node("Sigmoid", file.on_grid(file.node("GlobalAveragePool", x), 0.01, 3)), 1 / 256, -128)
    gated = file.on_grid(file.node("Mul", x, gate), 0.0207, -5)
    largest = file.on_grid(file.node("MaxPool", gated, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]), *grid)
    average = file.on_grid(file.node("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2]), *grid)
    both = file.on_grid(file.node("Concat", average, largest, axis=1), *grid)
    grouped = file.node("Conv", both, file.weight(random.integers(-127, 128, (6, 4, 3, 3)), np.full(6, 0.0103)),
                        group=2, dilations=[2, 2], pads=[2, 2, 2, 2])  # fmt: skip
    y = file.on_grid(file.node("Relu", grouped), 0.0507, -128)
    padded = file.node("Pad", y, file.constant(np.array([0, 1, 0, 0, 0, 0, 1, 2])))
    cut = file.node("Slice", padded, *(file.constant(np.array([v])) for v in (1, 7, 1, 2)))
    rows = file.node("Reshape", cut, file.constant(np.array([1, 3, -1])))
    product = file.on_grid(file.node("MatMul", rows, file.node("Transpose", rows, perm=[0, 2, 1])), 0.307, 7)
    weight, bias = (file.constant(random.normal(0, 1, 3).astype(np.float32)) for _ in range(2))
    normal = file.on_grid(file.node("LayerNormalization", product, weight, bias), 0.0307, 5)
    product = file.on_grid(file.node("Add", product, file.on_grid(file.node("Softmax", normal), 1 / 256, -128)), 0.307)
    difference = file.on_grid(file.node("Sub", product, file.on_grid(file.node("Neg", product), 0.21)), 0.41, 1)
    return file.bytes(difference)


def test_every_operator_gives_the_integers_of_the_reference(tmp_path: Path) -> None:
    graph = lower(every_operator())
    integers = np.random.default_rng(1).integers(-128, 128, (50, 4, 6, 6)).astype(np.int8)
    expected = reference.run(graph, integers)
    assert len(np.unique(expected)) > 50
    assert np.array_equal(run_c(graph, integers, tmp_path), expected)


def test_an_image_of_bytes_enters_through_the_tables(tmp_path: Path) -> None:
    graph = lower(every_operator())
    tables = np.random.default_rng(2).integers(-128, 128, (4, 256)).astype(np.int8)
    images = np.random.default_rng(3).integers(0, 256, (5, 4, 6, 6)).astype(np.uint8)
    integers = np.stack([tables[channel][images[:, channel]] for channel in range(4)], axis=1)
    assert np.array_equal(run_c(graph, images, tmp_path, tables), reference.run(graph, integers))


def test_there_is_no_floating_point_and_no_library_in_the_sources() -> None:
    files = sources(lower(every_operator())).files
    text = "\n".join(line for name in files for line in files[name].splitlines())
    assert "float" not in text.replace("no floating point", "")
    assert "double" not in text
    assert {line for line in text.splitlines() if line.startswith("#include <")} == {"#include <stdint.h>"}


def test_memory_is_planned_so_that_what_lives_at_the_same_time_lies_apart() -> None:
    graph = lower(every_operator())
    made = sources(graph)
    assert made.arena < sum(tensor.elements for tensor in graph.tensors.values())
    assert made.constants > sum(operator.weight.nbytes for operator in graph.operators if hasattr(operator, "weight"))
