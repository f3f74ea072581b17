"""Small ONNX files, built operator by operator, with seeded weights; and what ONNX Runtime says they compute."""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from pocketpipe.delivery.metadata import DeliveryMetadata
from pocketpipe.task import Preprocessing


class Graph:
    """Collects nodes; each method returns the name of its result.

    >>> graph = Graph((1, 8, 8))
    >>> onnx_file = graph.finish(graph.op("Relu", "input"))
    """

    def __init__(self, input_shape: tuple[int, ...], seed: int = 0) -> None:
        self.input_shape = input_shape
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def constant(self, value: np.ndarray) -> str:
        name = f"constant{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(value, name))
        return name

    def weight(self, *shape: int) -> str:
        scale = float(np.prod(shape[1:]) or 1) ** -0.5
        return self.constant(self.random.normal(0, scale, shape).astype(np.float32))

    def integers(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: object) -> str:
        names = [f"value{len(self.nodes)}_{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=f"node{len(self.nodes)}", **attributes))
        return names[0]

    def conv(self, data: str, channels: int, out: int, kernel: int | tuple[int, int] = 3, **attributes: object) -> str:
        size = (kernel, kernel) if isinstance(kernel, int) else kernel
        groups = int(attributes.get("group", 1))  # type: ignore[call-overload]
        attributes.setdefault("pads", [size[0] // 2, size[1] // 2] * 2)
        return self.op("Conv", data, self.weight(out, channels // groups, *size), self.weight(out), **attributes)

    def linear(self, data: str, features: int, out: int) -> str:
        return self.op("Gemm", data, self.weight(out, features), self.weight(out), transB=1)

    def finish(self, result: str, kind: int = TensorProto.FLOAT) -> bytes:
        """The file; `kind`: ONNX's number of the result's type."""
        given = helper.make_tensor_value_info("input", TensorProto.FLOAT, (1, *self.input_shape))
        output = helper.make_tensor_value_info(result, kind, None)
        graph = helper.make_graph(self.nodes, "graph", [given], [output], self.initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        data: bytes = model.SerializeToString()
        return data


def examples(input_shape: tuple[int, ...], count: int = 3) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, *input_shape)).astype(np.float32)


def reference(onnx_file: bytes, inputs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(onnx_file, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"input": inputs[i : i + 1]})[0] for i in range(len(inputs))])


def metadata(input_shape: tuple[int, ...], target: str, preprocessing: Preprocessing | None = None) -> DeliveryMetadata:
    return DeliveryMetadata(
        task="made up",
        network="made up",
        target=target,
        input_shape=input_shape,
        preprocessing=preprocessing or Preprocessing(),
        labels=("a", "b"),
        hashes={"onnx": "0" * 64},
    )


def gru(steps: int, features: int, hidden: int) -> bytes:
    """A GRU in primitive operators, unrolled, with a linear layer on the last state."""
    graph = Graph((steps, features))
    from_input, from_state = graph.weight(3 * hidden, features), graph.weight(3 * hidden, hidden)
    bias = [graph.weight(3 * hidden) for _ in range(2)]
    state = graph.constant(np.zeros((1, hidden), np.float32))
    one = graph.constant(np.float32(1))
    for step in range(steps):
        x = graph.op("Gather", "input", graph.constant(np.array(step, np.int64)), axis=1)
        left = graph.op("Gemm", x, from_input, bias[0], transB=1)
        right = graph.op("Gemm", state, from_state, bias[1], transB=1)
        thirds = [[_third(graph, gates, index, hidden) for index in range(3)] for gates in (left, right)]
        reset = graph.op("Sigmoid", graph.op("Add", thirds[0][0], thirds[1][0]))
        update = graph.op("Sigmoid", graph.op("Add", thirds[0][1], thirds[1][1]))
        new = graph.op("Tanh", graph.op("Add", thirds[0][2], graph.op("Mul", reset, thirds[1][2])))
        kept = graph.op("Mul", update, state)
        state = graph.op("Add", graph.op("Mul", graph.op("Sub", one, update), new), kept)
    return graph.finish(graph.linear(state, hidden, 10))


def _third(graph: Graph, gates: str, index: int, hidden: int) -> str:
    bounds = graph.integers(index * hidden), graph.integers((index + 1) * hidden)
    return graph.op("Slice", gates, *bounds, graph.integers(1))


def tiny(channels: int = 5) -> bytes:
    """(3, 8, 8) -> 10: one convolution, global mean, linear. For tests of all but the operators."""
    graph = Graph((3, 8, 8))
    pooled = graph.op(
        "ReduceMean", graph.op("Relu", graph.conv("input", 3, channels)), graph.integers(2, 3), keepdims=0
    )
    return graph.finish(graph.linear(pooled, channels, 10))


def residual(channels: tuple[int, int], size: int = 8) -> bytes:
    """Two blocks as in a small ResNet: identity shortcut, then stride 2 with a shortcut of zero-padded channels."""
    first, second = channels
    graph = Graph((3, size, size))
    stem = graph.op("Relu", graph.conv("input", 3, first))
    inner = graph.op("Relu", graph.conv(stem, first, first + 3))
    block = graph.op("Relu", graph.op("Add", graph.conv(inner, first + 3, first), stem))
    inner = graph.op("Relu", graph.conv(block, first, second - 1, strides=[2, 2]))
    main = graph.conv(inner, second - 1, second)
    cut = graph.op(
        "Slice", block, graph.integers(0, 0), graph.integers(99, 99), graph.integers(2, 3), graph.integers(2, 2)
    )
    before = (second - first) // 2
    padded = graph.op("Pad", cut, graph.integers(0, before, 0, 0, 0, second - first - before, 0, 0))
    out = graph.op("Relu", graph.op("Add", main, padded))
    pooled = graph.op("ReduceMean", out, graph.integers(2, 3), keepdims=0)
    return graph.finish(graph.linear(pooled, second, 10))
