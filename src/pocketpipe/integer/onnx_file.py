"""What an ONNX file says of its ends, values and nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pocketpipe.errors import UserError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, ValueInfoProto


def parsed(onnx_file: bytes) -> ModelProto:
    """The file as it is. Raises UserError for what is no ONNX file."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        return onnx.load_from_string(onnx_file)
    except DecodeError:
        raise UserError("this is no ONNX file: it cannot be read as one") from None


def inferred(onnx_file: bytes) -> ModelProto:
    """The file with the shapes that ONNX infers. Raises UserError for a file that contradicts itself, or is none."""
    import onnx

    try:
        model = onnx.shape_inference.infer_shapes(parsed(onnx_file))
        while _shape_group_norms(model):
            model = onnx.shape_inference.infer_shapes(model)
        return model
    except onnx.shape_inference.InferenceError as error:
        raise UserError(f"the ONNX file contradicts itself: {' '.join(str(error).split())}") from None


def _shape_group_norms(model: ModelProto) -> bool:
    """Give GroupNormalization's outputs the shape of its inputs, which ONNX does not infer; whether that was new."""
    values = (*model.graph.input, *model.graph.output, *model.graph.value_info)
    known = {value.name: value for value in values if value.type.tensor_type.HasField("shape")}
    found = False
    for node in model.graph.node:
        if node.op_type == "GroupNormalization" and node.input[0] in known and node.output[0] not in known:
            shaped = model.graph.value_info.add()
            shaped.CopyFrom(known[node.input[0]])
            shaped.name = node.output[0]
            found = True
    return found


def shapes_of(model: ModelProto) -> dict[str, tuple[int, ...]]:
    """Shape of every value but weights, as far as it is written in the file; 0 along an axis that is open."""
    values = (*model.graph.input, *model.graph.output, *model.graph.value_info)
    return {value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim) for value in values}


def only_ends(model: ModelProto, fate: str) -> tuple[ValueInfoProto, ValueInfoProto]:
    """The file's one input beside weights, and its one output. Raises UserError for several: of one each, `fate`."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    outputs = list(model.graph.output)
    if len(inputs) != 1 or len(outputs) != 1:
        raise UserError(f"the ONNX file has {len(inputs)} inputs and {len(outputs)} outputs; one of each {fate}")
    return inputs[0], outputs[0]


def attributes(node: NodeProto) -> dict[str, Any]:
    """The node's attributes by name."""
    from onnx import helper

    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
