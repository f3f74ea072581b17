"""The C sources against the reference of the integer graph: the same integers, under the strictest compiler flags."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from compression.zoo import zoo
from integer.natively import host_compiler
from integer.qdq import File, statically_quantized
from pocketpipe.delivery.folder import RUN, RUNNER_SOURCE, write_runner
from pocketpipe.exporting.onnx import export_onnx
from pocketpipe.integer import reference
from pocketpipe.integer.graph import IntegerGraph
from pocketpipe.integer.lowering import lower
from pocketpipe.targets.c99.sources import HEADER, MODEL, sources
from pocketpipe.targets.toolchain import find_toolchain
from targets.every_operator import every_operator

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O2")


def run_c(graph: IntegerGraph, inputs: np.ndarray, folder: Path, entry: np.ndarray | None = None) -> np.ndarray:
    """int8 outputs (N, ...) of the compiled C files."""
    for name, text in sources(graph, entry).files.items():
        (folder / name).write_text(text)
    entering, leaving = graph.tensors[graph.input], graph.tensors[graph.output]
    kind = "int8_t" if entry is None else "uint8_t"
    write_runner(folder, header=HEADER, run=RUN, inputs=(kind, entering.elements), outputs=("int8_t", leaving.elements))
    subprocess.run([*host_compiler(), *STRICT, RUNNER_SOURCE, MODEL, "-o", "run"], cwd=folder, check=True)
    inputs.tofile(folder / "input.bin")
    subprocess.run([folder / "run", "input.bin", "output.bin"], cwd=folder, check=True)
    return np.fromfile(folder / "output.bin", np.int8).reshape(len(inputs), *leaving.shape)


def some(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((8, *shape)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("resnet8", (1, 8, 8)),
        ("lenet", (1, 28, 28)),
        pytest.param("mobilenet_v2", (3, 16, 16), marks=pytest.mark.slow),
    ],
)
def test_networks_give_the_integers_of_the_reference(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    inputs = some(0, *shape)
    graph = lower(statically_quantized(export_onnx(zoo(name, shape), shape), inputs, tmp_path))
    integers = graph.quantized(inputs)
    assert np.array_equal(run_c(graph, integers, tmp_path), reference.run(graph, integers))


@pytest.mark.parametrize("compiler", ["ziglang", "arm-none-eabi-gcc"])
def test_the_sources_are_freestanding_and_strict(compiler: str, tmp_path: Path) -> None:
    if compiler != "ziglang" and not shutil.which(compiler):
        pytest.skip(f"needs {compiler}")
    for name, text in sources(lower(every_operator())).files.items():
        (tmp_path / name).write_text(text)
    command = find_toolchain("x86_64").shared[:2] if compiler == "ziglang" else (compiler,)
    subprocess.run([*command, *STRICT, "-ffreestanding", "-c", MODEL, "-o", "model.o"], cwd=tmp_path, check=True)


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
    assert made.arena < 0.5 * sum(tensor.elements for tensor in graph.tensors.values())
    assert made.constants > sum(operator.weight.nbytes for operator in graph.operators if hasattr(operator, "weight"))


def test_a_sum_far_beyond_the_grid_of_its_result_saturates(tmp_path: Path) -> None:
    """Sum times factor is 10^10 here; cut to 32 bits first, it would be any number."""
    file = File((64,))
    weight = file.weight(np.full((64, 3), 127), np.ones(3), axis=1)
    graph = lower(file.bytes(file.on_grid(file.node("MatMul", file.on_grid("input", 1.0), weight), 1e-5)))
    integers = np.random.default_rng(0).integers(-128, 128, (200, 64)).astype(np.int8)
    expected = reference.run(graph, integers)
    assert {-128, 127} == set(np.unique(expected))
    assert np.array_equal(run_c(graph, integers, tmp_path), expected)


def test_tensors_of_one_shape_are_added_whatever_their_axes(tmp_path: Path) -> None:
    file = File((2, 3, 2, 2))
    x, y = file.on_grid("input", 0.05), file.on_grid(file.node("Sigmoid", file.on_grid("input", 0.05)), 0.004, -128)
    graph = lower(file.bytes(file.on_grid(file.node("Mul", x, y), 0.04)))
    integers = np.random.default_rng(0).integers(-128, 128, (9, 2, 3, 2, 2)).astype(np.int8)
    assert np.array_equal(run_c(graph, integers, tmp_path), reference.run(graph, integers))
