"""What an ONNX file says of its ends, values and nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pocketpipe.errors import UserError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, ValueInfoProto


def parsed(onnx_file: bytes) -> ModelProto:
    """The file as it is. Raises UserError for what is no ONNX file, and for weights that lie in another."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_from_string(onnx_file)
    except DecodeError:
        raise UserError("this is no ONNX file: it cannot be read as one") from None
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            place = next((entry.value for entry in tensor.external_data if entry.key == "location"), "another file")
            raise UserError(
                f"the ONNX file's weights lie in {place!r}; save all as one file: onnx.save(onnx.load(path), path), "
                "or torch.onnx.export(..., external_data=False)"
            )
    return model


def folded(onnx_file: bytes) -> ModelProto:
    """The file, with what depends on constants and shapes alone computed, if an exporter has left such nodes.

    An open batch axis is 1 then. Raises UserError as `parsed`.
    """
    model = parsed(onnx_file)
    if not _has_to_be_folded(model):
        return model
    from onnxscript.optimizer import fold_constants, remove_unused_nodes  # a second, and seldom needed

    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if dims and dims[0].WhichOneof("value") != "dim_value":
            dims[0].dim_value = 1
            del model.graph.value_info[:]
            for output in model.graph.output:
                output.type.tensor_type.ClearField("shape")
    fold_constants(
        model,
        onnx_shape_inference=True,
        input_size_limit=LARGEST,
        output_size_limit=LARGEST,
        should_fold=lambda node: True if node.op_type == "ConstantOfShape" else None,  # None: by its own rules
    )
    remove_unused_nodes(model)
    return model


CONSTANTS = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
"""Attributes of Constant nodes, beside whole tensors."""
LARGEST = 2**28
"""Numbers in a constant that is computed: any weight."""
KEPT = ("Constant", "QuantizeLinear", "DequantizeLinear")
"""Of constants, too: they say on which grid a weight lies."""


def _has_to_be_folded(model: ModelProto) -> bool:
    known = {tensor.name for tensor in model.graph.initializer}
    known |= {node.output[0] for node in model.graph.node if node.op_type == "Constant"}
    return any(
        node.op_type in ("Shape", "Size") or (node.op_type not in KEPT and known.issuperset(filter(None, node.input)))
        for node in model.graph.node
    )


def constants_of(model: ModelProto) -> dict[str, np.ndarray]:
    """Initializers, and what nodes hold that are constants, by name."""
    from onnx import helper, numpy_helper

    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and len(node.attribute) == 1:
            value = helper.get_attribute_value(node.attribute[0])
            kind = node.attribute[0].name
            if kind == "value":
                found[node.output[0]] = numpy_helper.to_array(value)
            elif kind in CONSTANTS:
                found[node.output[0]] = np.array(value, CONSTANTS[kind])
    return found


def inferred(onnx_file: bytes) -> ModelProto:
    """`folded`, with the shapes that ONNX infers. Raises UserError for a file that contradicts itself, or is none."""
    import onnx

    try:
        model = onnx.shape_inference.infer_shapes(folded(onnx_file))
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
