"""What becomes one kernel: the calls of the compiled program, counted."""

from pathlib import Path

import numpy as np
import pytest

from pocketpipe.targets.lowering.fusing import fuse
from pocketpipe.targets.lowering.program import Program, compile_floats
from pocketpipe.targets.lowering.reading import read_onnx
from pocketpipe.targets.x86_64 import LEVELS
from targets.graphs import Graph, gru, residual


def program(onnx: bytes, folder: Path) -> Program:
    cpu = LEVELS["v1"].cpu()
    return compile_floats(onnx, cpu, folder / "kernels.o")


def test_bias_residual_and_activation_end_in_the_convolution(tmp_path: Path) -> None:
    calls = program(residual((16, 32)), tmp_path).calls
    # input to channels last; 5 convolutions; the shortcut's slice and padding; mean's sum and division; linear
    assert len(calls) <= 9


@pytest.mark.parametrize("bounds", [(0.0, 6.0), (0.0, None), (None, 6.0)], ids=["both", "lower", "upper"])
def test_clips_end_in_the_convolution(bounds: tuple[float | None, float | None], tmp_path: Path) -> None:
    """ReLU6, between layers and behind a product that was scaled."""
    graph = Graph((4, 8, 8))
    ends = ["" if each is None else graph.constant(np.float32(each)) for each in bounds]
    value = "input"
    for group in (1, 8):
        value = graph.op("Clip", graph.conv(value, 4 if group == 1 else 8, 8, group=group), *ends)
    calls = program(graph.finish(value), tmp_path).calls
    assert len(calls) == 1 + 2 + 1, "to channels last, two layers, and back"


def test_where_two_convolutions_meet_both_are_kernels_of_ours(tmp_path: Path) -> None:
    graph = Graph((1, 8, 8))
    main = graph.conv(graph.op("Relu", graph.conv("input", 1, 9, strides=[2, 2])), 9, 14)
    shortcut = graph.conv("input", 1, 14, kernel=1, strides=[2, 2])
    onnx = graph.finish(graph.op("Relu", graph.op("Add", main, shortcut)))
    cpu = LEVELS["v1"].cpu()
    module, _ = fuse(read_onnx(onnx), cpu)
    assert str(module["main"]).count("call_dps_packed") == 3
    assert len(program(onnx, tmp_path).calls) == 3 + 1  # the output goes back to channels first


def test_layers_of_equal_shape_share_a_kernel(tmp_path: Path) -> None:
    graph = Graph((8, 6, 6))
    value = "input"
    for _ in range(4):
        value = graph.op("Relu", graph.conv(value, 8, 8))
    calls = program(graph.finish(value), tmp_path).calls
    assert len({call.kernel for call in calls}) == len(calls) - 3


def test_weights_that_are_used_again_are_stored_once(tmp_path: Path) -> None:
    few, many = (program(gru(steps, features=4, hidden=16), tmp_path) for steps in (3, 9))
    assert len(few.weights) == len(many.weights)


def test_arena_holds_no_more_than_lives_at_a_time(tmp_path: Path) -> None:
    graph = Graph((4, 16, 16))
    value = "input"
    for _ in range(6):
        value = graph.op("Relu", graph.conv(value, 4, 4))
    tensor = 4 * 16 * 16 * np.dtype(np.float32).itemsize
    assert program(graph.finish(value), tmp_path).arena_bytes == 2 * tensor
