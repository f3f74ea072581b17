"""Every operator and shape against ONNX Runtime, on this CPU's vectors.

Most are delivered several at a time, side by side in one graph: a delivery by itself takes a second.
"""

from collections.abc import Callable, Mapping
from functools import partial
from math import prod
from pathlib import Path

import numpy as np
import pytest

from pocketpipe.errors import UserError
from pocketpipe.targets.base import TARGETS
from targets.graphs import Graph, examples, gru, metadata, reference, residual

Build = Callable[[Graph], str]
Cases = Mapping[str, tuple[tuple[int, ...], Build]]


def close(onnx: bytes, input_shape: tuple[int, ...], folder: Path, target: str = "x86_64") -> float:
    """Largest difference to ONNX Runtime, over the largest output (or 1)."""
    inputs = examples(input_shape)
    TARGETS.resolve(target).compile(onnx, metadata(input_shape, target), folder)
    got, expected = TARGETS.resolve(target).run(folder, inputs), reference(onnx, inputs)
    assert got.shape == expected.shape
    return float(np.abs(got - expected).max() / max(1.0, np.abs(expected).max()))


class Branch(Graph):
    """A case in a graph of many: its `"input"` is a part of the whole graph's, its nodes are called by its name."""

    def __init__(self, whole: Graph, input_shape: tuple[int, ...], entry: str, name: str) -> None:
        super().__init__(input_shape)  # with weights of its own seed, as if it were alone
        self.nodes, self.initializers = whole.nodes, whole.initializers
        self.entry, self.name = entry, name

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: object) -> str:
        made = super().op(
            kind, *(self.entry if name == "input" else name for name in inputs), outputs=outputs, **attributes
        )
        self.nodes[-1].name = f"{self.name}: {self.nodes[-1].name}"
        return made


def side_by_side(cases: Cases) -> Graph:
    """One graph that gives each case its part of a flat input, and concatenates what they make."""
    whole, start, made = Graph((sum(prod(shape) for shape, _ in cases.values()),)), 0, []
    for name, (shape, build) in cases.items():
        end = start + prod(shape)
        part = whole.op("Slice", "input", whole.integers(start), whole.integers(end), whole.integers(1))
        entry = whole.op("Reshape", part, whole.integers(1, *shape))
        made.append(whole.op("Flatten", build(Branch(whole, shape, entry, name))))
        start = end
    whole.op("Concat", *made, axis=1)
    return whole


def differing(cases: Cases, folder: Path) -> dict[str, float]:
    """Cases whose outputs are not those of ONNX Runtime, which runs each alone; with the largest difference."""
    graph = side_by_side(cases)
    onnx, inputs = graph.finish(graph.nodes[-1].output[0]), examples(graph.input_shape)
    TARGETS.resolve("x86_64").compile(onnx, metadata(graph.input_shape, "x86_64"), folder)
    got = TARGETS.resolve("x86_64").run(folder, inputs)
    found = {}
    for name, (shape, build) in cases.items():
        own, inputs = inputs[:, : prod(shape)].reshape(-1, *shape), inputs[:, prod(shape) :]
        alone = Graph(shape)
        expected = reference(alone.finish(build(alone)), own).reshape(len(own), -1)
        mine, got = got[:, : expected.shape[1]], got[:, expected.shape[1] :]
        assert mine.shape == expected.shape, name
        found[name] = float(np.abs(mine - expected).max() / max(1.0, np.abs(expected).max()))
    assert got.size == 0
    return {name: difference for name, difference in found.items() if not difference < 1e-5}


def _wide_and_narrow(channels: int) -> Build:
    return lambda g: g.conv(g.op("Relu", g.conv("input", 2, channels)), channels, 3, kernel=1)


def test_channel_counts(tmp_path: Path) -> None:
    cases = {str(channels): ((2, 9, 9), _wide_and_narrow(channels)) for channels in (1, 5, 13, 16, 33, 67)}
    assert differing(cases, tmp_path / "out") == {}


CONVOLUTIONS: dict[str, tuple[tuple[int, ...], Build]] = {
    "stride 2, no padding": ((3, 11, 7), lambda g: g.conv("input", 3, 12, strides=[2, 2], pads=[0] * 4)),
    "padding on one side": ((3, 8, 8), lambda g: g.conv("input", 3, 12, strides=[2, 2], pads=[0, 0, 1, 1])),
    "padding wider than needed": ((3, 4, 4), lambda g: g.conv("input", 3, 5, pads=[3, 3, 3, 3])),
    "dilation": ((3, 13, 13), lambda g: g.conv("input", 3, 7, dilations=[2, 3], pads=[2, 3, 2, 3])),
    "5x1": ((3, 9, 6), lambda g: g.conv("input", 3, 18, kernel=(5, 1))),
    "1x1, stride 2": ((19, 8, 8), lambda g: g.conv("input", 19, 21, kernel=1, strides=[2, 2])),
    "7x7, wide row": ((1, 9, 45), lambda g: g.conv("input", 1, 4, kernel=7)),
    "one pixel": ((40, 1, 1), lambda g: g.conv("input", 40, 150, kernel=3)),
    "depthwise": ((21, 9, 9), lambda g: g.conv("input", 21, 21, group=21)),
    "depthwise, stride 2": ((16, 9, 9), lambda g: g.conv("input", 16, 16, group=16, strides=[2, 2])),
    "depthwise, two outputs a channel": ((5, 8, 8), lambda g: g.conv("input", 5, 10, group=5)),
    "grouped": ((12, 8, 8), lambda g: g.conv("input", 12, 21, group=3)),
    "narrow": ((21, 4, 4), lambda g: g.conv("input", 21, 77)),
    "narrow, stride 2, dilation": ((5, 9, 7), lambda g: g.conv("input", 5, 40, strides=[2, 2], dilations=[2, 2])),
    "narrow, no padding": ((7, 6, 5), lambda g: g.conv("input", 7, 19, pads=[0] * 4)),
    "narrow, padded on one side": ((3, 6, 3), lambda g: g.conv("input", 3, 21, strides=[2, 1], pads=[0, 1, 1, 0])),
    "narrow, many taps": ((3, 32, 32), lambda g: g.conv("input", 3, 20, kernel=8, strides=[8, 8], pads=[0] * 4)),
    "narrow and long": ((3, 40, 2), lambda g: g.conv("input", 3, 9)),
    "narrow and long, 1x1": ((5, 70, 1), lambda g: g.conv("input", 5, 9, kernel=1)),
    "narrow, 1x1, stride 2": ((9, 7, 7), lambda g: g.conv("input", 9, 33, kernel=1, strides=[2, 2])),
    "narrow, grouped": ((6, 3, 3), lambda g: g.conv("input", 6, 34, group=2)),
    "grouped, 1x1": ((32, 4, 4), lambda g: g.conv("input", 32, 64, kernel=1, group=2)),
}


def _with_relu(build: Build) -> Build:
    return lambda g: g.op("Relu", build(g))


@pytest.mark.parametrize("third", range(3))
def test_convolutions(tmp_path: Path, third: int) -> None:
    cases = {name: (shape, _with_relu(build)) for name, (shape, build) in list(CONVOLUTIONS.items())[third::3]}
    assert differing(cases, tmp_path / "out") == {}


def _relu6(g: Graph) -> str:
    bounds = [g.constant(np.float32(bound)) for bound in (0, 1.5)]
    return g.op("Clip", g.conv("input", 3, 9), *bounds)


def _one_bound(g: Graph, *, upper: bool) -> str:
    bound = g.constant(np.float32(0.4 if upper else -0.3))
    return g.op("Clip", g.conv("input", 3, 9), *(["", bound] if upper else [bound]))


def _clipped_twice(g: Graph) -> str:
    """What lies between the bounds is needed, too."""
    bounds = [g.constant(np.float32(bound)) for bound in (-0.5, 0.5, 0.2)]
    low = g.op("Clip", g.conv("input", 3, 9), bounds[0])
    return g.op("Add", g.op("Clip", low, "", bounds[1]), g.op("Clip", low, "", bounds[2]))


def _used_twice(g: Graph) -> str:
    """The convolution's value is needed besides the operator that could be fused with it."""
    inner = g.conv("input", 3, 9)
    return g.op("Mul", g.op("Relu", inner), inner)


def _scaled(g: Graph) -> str:
    return g.op("Mul", g.conv("input", 3, 17), g.constant(np.linspace(1, 3, 17, dtype="f4").reshape(1, 17, 1, 1)))


def _batch_norm(g: Graph) -> str:
    scale, bias, mean = (g.weight(5) for _ in range(3))
    return g.op("BatchNormalization", g.conv("input", 5, 5), scale, bias, mean, g.constant(np.full(5, 0.5, "f4")))


def _resize(g: Graph) -> str:
    way = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return g.op("Resize", g.conv("input", 3, 6), "", g.constant(np.array([1, 1, 2, 2], "f4")), **way)


def _two_convolutions_meet(g: Graph) -> str:
    """A downsampling block: main path and 1x1 shortcut end in one addition."""
    main = g.conv(g.op("Relu", g.conv("input", 6, 9, strides=[2, 2])), 9, 14)
    return g.op("Relu", g.op("Add", main, g.conv("input", 6, 14, kernel=1, strides=[2, 2])))


def _attention(g: Graph) -> str:
    """Both factors of the products are computed; the second is read as a weight, up to its very end."""
    queries, keys = (g.op("MatMul", "input", g.weight(6, 5)) for _ in range(2))
    scores = g.op("MatMul", queries, g.op("Transpose", keys, perm=[0, 2, 1]))
    return g.op("MatMul", g.op("Softmax", scores, axis=-1), "input")


def _norm_of_images(graph: Graph) -> str:
    """Along all axes of an example."""
    return graph.op(
        "LayerNormalization", graph.conv("input", 3, 4), graph.weight(4, 7, 9), graph.weight(4, 7, 9), axis=1
    )


OTHERS: dict[str, tuple[tuple[int, ...], Build]] = {
    "clip": ((3, 8, 8), _relu6),
    "clip from below": ((3, 8, 8), partial(_one_bound, upper=False)),
    "clip from above": ((3, 8, 8), partial(_one_bound, upper=True)),
    "clipped twice": ((3, 8, 8), _clipped_twice),
    "clip alone": ((3, 8, 8), lambda g: g.op("Clip", g.op("Mul", "input", "input"), "", g.constant(np.float32(1)))),
    "used twice": ((3, 8, 8), _used_twice),
    "subtract, swapped": ((3, 8, 8), lambda g: g.op("Sub", "input", g.conv("input", 3, 3))),
    "scale a channel": ((3, 8, 8), _scaled),
    "max pool": ((13, 9, 9), lambda g: g.op("MaxPool", "input", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)),
    "average pool": ((16, 8, 8), lambda g: g.op("AveragePool", g.conv("input", 16, 11), kernel_shape=[2, 2])),
    "global pool": ((13, 5, 5), lambda g: g.op("GlobalAveragePool", g.conv("input", 13, 13))),
    "flatten": ((3, 6, 6), lambda g: g.linear(g.op("Flatten", g.conv("input", 3, 5)), 180, 10)),
    "concat": ((3, 6, 6), lambda g: g.op("Concat", g.conv("input", 3, 5), g.conv("input", 3, 6), axis=1)),
    "sigmoid, tanh": ((77,), lambda g: g.op("Sigmoid", g.op("Mul", g.op("Tanh", "input"), g.constant(np.float32(20))))),
    "exp, log": ((40,), lambda g: g.op("Log", g.op("Add", g.op("Exp", "input"), g.constant(np.float32(1))))),
    "softmax": ((10,), lambda g: g.op("Softmax", "input", axis=1)),
    "softmax over channels": ((5, 4, 3), lambda g: g.op("Softmax", g.conv("input", 5, 6), axis=1)),
    "gelu": ((33,), lambda g: g.op("Erf", "input")),
    "hard swish": ((9, 4, 4), lambda g: g.op("HardSwish", g.conv("input", 9, 9))),
    "layer norm": ((7, 20), lambda g: g.op("LayerNormalization", "input", g.weight(20), g.weight(20))),
    "linear": ((70,), lambda g: g.linear(g.op("Relu", g.linear("input", 70, 201)), 201, 3)),
    "rows times matrix": ((11, 6), lambda g: g.op("MatMul", "input", g.weight(6, 19))),
    "attention": ((7, 6), _attention),
    "batch norm": ((5, 6, 6), _batch_norm),
    "conv 1-d": ((3, 12), lambda g: g.op("Conv", "input", g.weight(5, 3, 3), pads=[1, 1])),
    "transposed conv": ((3, 5, 5), lambda g: g.op("ConvTranspose", "input", g.weight(3, 4, 2, 2), strides=[2, 2])),
    "resize": ((3, 5, 5), _resize),
    "layer norm of images": ((3, 7, 9), lambda g: g.conv(_norm_of_images(g), 4, 5)),
    "transposed conv behind a conv": ((3, 5, 5), lambda g: g.op(
        "ConvTranspose", g.op("Relu", g.conv("input", 3, 6)), g.weight(6, 2, 3, 3), strides=[2, 2], group=2)),
    "squeezed from the end": ((3, 5, 1), lambda g: g.op("Squeeze", g.conv("input", 3, 5), g.integers(-1))),
    "the larger of three": ((4, 6, 6), lambda g: g.op(
        "Max", "input", g.conv("input", 4, 4), g.constant(np.float32(0.1)))),
    "the smaller": ((4, 6, 6), lambda g: g.op("Min", "input", g.conv("input", 4, 4))),
    "resized by a constant of a node": ((1, 4, 4), lambda g: g.op(
        "Resize", "input", "", g.op("Constant", value_floats=[1.0, 1.0, 1.5, 1.5]), mode="linear")),
    "dropout": ((4, 6), lambda g: g.op("Dropout", g.op("Relu", "input"))),
    "the places of the largest, which nobody reads": ((2, 4, 4), lambda g: g.op(
        "MaxPool", "input", outputs=2, kernel_shape=[2, 2])),
    "a square": ((4, 6), lambda g: g.op("Pow", "input", g.integers(2))),
    "a shape that is computed": ((4,), lambda g: g.op("Reshape", "input", g.op(
        "Concat", g.op("Gather", g.op("Shape", "input"), g.integers(0)), g.op("Constant", value_ints=[2, 2]), axis=0))),
    "sum and mean": ((4, 6, 6), lambda g: g.op(
        "Sum", g.op("Mean", "input", g.conv("input", 4, 4), g.conv("input", 4, 4)), "input", g.conv("input", 4, 4))),
}  # fmt: skip


@pytest.mark.parametrize("third", range(3))
def test_other_operators(tmp_path: Path, third: int) -> None:
    assert differing(dict(list(OTHERS.items())[third::3]), tmp_path / "out") == {}


ALONE: dict[str, tuple[tuple[int, ...], Build]] = {
    "nothing but a reshape": ((4, 6), lambda g: g.op("Reshape", "input", g.integers(1, 24))),
    "images enter, and images leave": ((6, 8, 8), _two_convolutions_meet),
}


@pytest.mark.parametrize("name", ALONE)
def test_a_whole_graph(tmp_path: Path, name: str) -> None:
    shape, build = ALONE[name]
    graph = Graph(shape)
    assert close(graph.finish(build(graph)), shape, tmp_path / "out") < 1e-5


@pytest.mark.parametrize("channels", [(16, 32), (13, 29)])
def test_residual_blocks(tmp_path: Path, channels: tuple[int, int]) -> None:
    assert close(residual(channels), (3, 8, 8), tmp_path / "out") < 1e-5


def test_gru(tmp_path: Path) -> None:
    assert close(gru(steps=8, features=8, hidden=24), (8, 8), tmp_path / "out") < 1e-5


def test_extreme_values(tmp_path: Path) -> None:
    graph = Graph((12,))
    onnx = graph.finish(graph.op("Concat", *(graph.op(kind, "input") for kind in ("Sigmoid", "Tanh", "Erf")), axis=1))
    values = np.array([[-1e30, -200, -88, -20, -1e-6, -0.0, 0, 1e-6, 20, 88, 200, 1e30]], np.float32)
    TARGETS.resolve("x86_64").compile(onnx, metadata((12,), "x86_64"), tmp_path / "out")
    np.testing.assert_allclose(
        TARGETS.resolve("x86_64").run(tmp_path / "out", values), reference(onnx, values), atol=2e-6
    )


@pytest.mark.parametrize(
    ("build", "line"),
    [
        (lambda g: g.op("Resize", "input", "", g.constant(np.array([1, 1, 0.5, 0.5], np.float32)), mode="linear"),
         "node0' .Resize.: these scales make no whole number of pixels"),
        (lambda g: g.op("Resize", "input", "", "", g.integers(1, 3, 4, 4), mode="linear", antialias=1),
         "node0' .Resize.: antialiasing is not compiled"),
        (lambda g: g.op("MaxPool", "input", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_LOWER"),
         "node0' .MaxPool.: auto_pad SAME_LOWER is not compiled"),
        (lambda g: g.op("Resize", "input", "", g.op("Constant", value_floats=[1.0, 1.0, 1.5, 1.5]), mode="linear"),
         "node1' .Resize.: these scales make no whole number of pixels"),
        (lambda g: g.op("Resize", "input", "", "", g.integers(1, 6, 9, 9), mode="nearest"),
         "node0' .Resize.: only pixels are resized, not channels"),
        (lambda g: g.op("ConvTranspose", "input", g.weight(3, 3, 3, 3), strides=[2, 2], output_shape=[18, 18]),
         "node0' .ConvTranspose.: output_shape is not compiled"),
        (lambda g: g.op("Reshape", g.op("Transpose", g.conv("input", 3, 5), perm=[0, 2, 3, 1]), g.integers(-1, 5)),
         "has no axis of its own for the batch; let it begin with 1"),
        (lambda g: g.op("Identity", "input"), "the network computes nothing: its output is its input"),
        (lambda g: g.op("Add", g.constant(np.ones((1, 3), np.float32)), g.constant(np.float32(1))),
         "the network computes nothing: its output is a constant, whatever the input"),
        (lambda g: g.op("CumSum", g.conv("input", 3, 4), g.integers(1)), "cannot be compiled|has no kernel"),
    ],
)  # fmt: skip
def test_what_would_be_computed_wrongly_is_refused_before_any_work(build: Build, line: str) -> None:
    graph = Graph((3, 9, 9))
    with pytest.raises(UserError, match=line):
        TARGETS.resolve("x86_64").check_floats(graph.finish(build(graph)))
