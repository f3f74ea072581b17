"""Cost measured on an ONNX file: MACs from its operators' shapes, independent of how the plan predicted them."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

from pocketpipe.cost import Cost
from pocketpipe.errors import UserError
from pocketpipe.integer.onnx_file import attributes, inferred, shapes_of

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

Shape = tuple[int, ...]
MULTIPLYING = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def cost_of(onnx_file: bytes, name: str) -> Cost:
    """Cost of one example through the file. `name` is how the file is called in figures."""
    import onnx

    model = inferred(onnx_file)
    graph = model.graph
    known = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer} | shapes_of(model)
    weights = _weights(graph, _floating_types(onnx.TensorProto))
    _refuse_unknown_shapes(graph, known)
    macs = {node.name or node.output[0]: count for node in graph.node if (count := _macs(node, known))}
    return Cost(
        macs=sum(macs.values()),
        parameters=sum(prod(shape) for shape in weights),
        file_bytes=len(onnx_file),
        macs_by_layer=macs,
        source=f"measured on {name}",
    )


def _weights(graph: "GraphProto", floating: tuple[int, ...]) -> list[Shape]:
    """Shapes of the numbers that were trained: not of shapes and indices, nor of steps and zero points."""
    dequantizing = [node for node in graph.node if node.op_type == "DequantizeLinear"]
    integers = {node.input[0] for node in dequantizing}
    steps = {name for node in dequantizing for name in node.input[1:]}
    return [
        tuple(tensor.dims)
        for tensor in graph.initializer
        if tensor.name in integers or (tensor.data_type in floating and tensor.name not in steps)
    ]


def _floating_types(tensor: Any) -> tuple[int, ...]:
    return (tensor.FLOAT, tensor.FLOAT16, tensor.BFLOAT16, tensor.DOUBLE)


def _refuse_unknown_shapes(graph: "GraphProto", shapes: Mapping[str, Shape]) -> None:
    """Of an operator that multiplies: it would count for nothing."""
    for node in graph.node:
        of_ends = [*node.input[:2], node.output[0]] if node.op_type in MULTIPLYING else []
        for name in of_ends:
            if 0 in shapes.get(name, (0,)) or not shapes[name]:
                raise UserError(f"node {node.name or name!r} ({node.op_type}): ONNX knows no shape of {name!r}")


def _macs(node: "NodeProto", shapes: Mapping[str, Shape]) -> int:
    """Multiply-accumulates of a node; 0 for operators that do not multiply by a matrix or kernel."""
    match node.op_type:
        case "Conv":
            kernel = shapes[node.input[1]]  # (out, in / groups, *window)
            return prod(shapes[node.output[0]]) * prod(kernel[1:])
        case "ConvTranspose":
            kernel = shapes[node.input[1]]  # (in, out / groups, *window): every input element is laid down with it
            return prod(shapes[node.input[0]]) * prod(kernel[1:])
        case "Gemm" | "MatMul":
            transposed = attributes(node).get("transA", 0)
            summed = shapes[node.input[0]][0 if transposed else -1]
            return prod(shapes[node.output[0]]) * summed
        case "Einsum":
            return _einsum_macs(attributes(node)["equation"].decode(), [shapes[name] for name in node.input])
        case "LSTM" | "GRU" | "RNN":
            steps, batch = shapes[node.input[0]][:2]  # or the other way round, by the layout
            return steps * batch * sum(prod(shapes[weight]) for weight in node.input[1:3])
    return 0


def _einsum_macs(equation: str, operands: Sequence[Shape]) -> int:
    """Of a product of two tensors: every combination of positions along all axes is one multiplication."""
    inputs = equation.replace(" ", "").partition("->")[0].split(",")
    if len(operands) != 2:
        return 0
    lengths: dict[object, int] = {}
    for axes, shape in zip(inputs, operands, strict=True):
        before, dots, after = axes.partition("...")
        hidden = len(shape) - len(before) - len(after) if dots else 0
        for axis, size in zip((*before, *range(-hidden, 0), *after), shape, strict=True):
            lengths[axis] = max(size, lengths.get(axis, 1))  # broadcast
    return prod(lengths.values())
