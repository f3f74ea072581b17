"""What is left to do on a quantized ONNX file after torch's exporter: names, integers of four bits, nothing twice."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Any

from pocketpipe.compression.quantization.weaving import QUANTIZERS, free_name
from pocketpipe.compression.weights import layer_name, parameter_name

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

_SCOPES = "pkg.torch.onnx.name_scopes"
"""Where the exporter notes the modules in which a node was made."""
_DEFAULTS: dict[tuple[str, str], Any] = {
    ("Conv", "auto_pad"): b"NOTSET",
    ("Conv", "group"): 1,
    ("Conv", "dilations"): [1, 1],
    ("Gemm", "alpha"): 1.0,
    ("Gemm", "beta"): 1.0,
    ("Gemm", "transA"): 0,
}
_NONE = object()
_MOVING = {"Slice", "Pad", "MaxPool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Gather", "Expand"}


def finish(model: ModelProto, four_bit_layers: frozenset[str]) -> None:
    """To be called while the exporter's metadata is still there.

    A tensor between layers is named as its quantizer, weight and bias as their parameters, the rest by numbers: of an
    8-bit ResNet-20's 290 kB, names as long as those in the network would be 4.
    """
    graph = model.graph
    for tensor in graph.initializer:
        if tensor.name.endswith(".original") and layer_name(tensor.name) in four_bit_layers:
            _store_in_four_bits(tensor)
    if four_bit_layers:
        _requantize_what_is_moved(graph)
    share_equal(graph)
    _replace_names(graph, _short_names(graph))
    for node in graph.node:
        node.ClearField("name")
        _leave_out_defaults(node)


def _store_in_four_bits(tensor: TensorProto) -> None:
    from onnx import TensorProto, helper, numpy_helper

    four_bits = numpy_helper.to_array(tensor).astype(helper.tensor_dtype_to_np_dtype(TensorProto.INT4))
    tensor.CopyFrom(numpy_helper.from_array(four_bits, tensor.name))


def _requantize_what_is_moved(graph: GraphProto) -> None:
    """Q and DQ of the same scale behind every operator that only moves numbers.

    Nothing changes by them, but ONNX Runtime 1.32 refuses files of opset 21 without: it would add them itself, and
    leaves their zero point out.
    """
    from onnx import helper

    ends = {value.name for value in graph.output}
    grids: dict[str, list[str]] = {}
    renamed: dict[str, str] = {}
    nodes: list[NodeProto] = []
    for node in [copy.deepcopy(node) for node in graph.node]:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        nodes.append(node)
        grid = grids.get(node.input[0]) if node.input else None
        (made, *_) = node.output
        if node.op_type == "DequantizeLinear":
            grids[made] = list(node.input[1:])
        elif node.op_type in _MOVING and grid is not None and made not in ends:
            integers, back = f"{made}/integers", f"{made}/back"
            nodes.append(helper.make_node("QuantizeLinear", [made, *grid], [integers]))
            nodes.append(helper.make_node("DequantizeLinear", [integers, *grid], [back]))
            renamed[made], grids[back] = back, grid
    del graph.node[:]
    graph.node.extend(nodes)


def share_equal(graph: GraphProto, *, above: int = 0) -> None:
    """Let equal initializers of more than `above` elements be one."""
    first: dict[bytes, str] = {}
    same: dict[str, str] = {}
    for tensor in graph.initializer:
        content = copy.deepcopy(tensor)
        content.ClearField("name")
        key = content.SerializeToString(deterministic=True) if prod(tensor.dims) > above else tensor.name.encode()
        same[tensor.name] = first.setdefault(key, tensor.name)
    kept = [copy.deepcopy(tensor) for tensor in graph.initializer if same[tensor.name] == tensor.name]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    _replace_names(graph, same)


def _short_names(graph: GraphProto) -> dict[str, str]:
    """For each value of the graph its new name."""
    names = {value.name: value.name for value in (*graph.input, *graph.output)}
    taken = set(names)
    for tensor in graph.initializer:
        names[tensor.name] = free_name(_parameter(tensor.name) or str(len(names)), taken)
    for node in graph.node:
        for made in node.output:
            if made and made not in names:
                names[made] = free_name(_quantizer_of(node) or str(len(names)), taken)
    return names


def _parameter(name: str) -> str | None:
    """The parameter that an initializer holds; None for scales, zero points, shapes.

    >>> _parameter("conv1.parametrizations.weight.original"), _parameter("conv1.parametrizations.weight.0.scale")
    ('conv1.weight', None)
    """
    if name.startswith(f"{QUANTIZERS}.") or (".parametrizations." in name and not name.endswith(".original")):
        return None
    return parameter_name(name) if "." in name else None


def _leave_out_defaults(node: NodeProto) -> None:
    """Attributes that say what would be without them."""
    from onnx import helper

    kept = [
        attribute
        for attribute in node.attribute
        if _DEFAULTS.get((node.op_type, attribute.name), _NONE) != helper.get_attribute_value(attribute)
    ]
    if len(kept) < len(node.attribute):
        del node.attribute[:]
        node.attribute.extend(kept)


def _quantizer_of(node: NodeProto) -> str | None:
    """Name of the quantizer that a QuantizeLinear was made from."""
    scopes = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), "")
    found = re.search(rf"'{QUANTIZERS}\.([^']+)'", scopes)
    return found[1] if found and node.op_type == "QuantizeLinear" else None


def _replace_names(graph: GraphProto, names: Mapping[str, str]) -> None:
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for node in graph.node:
        for values in (node.input, node.output):
            for position, name in enumerate(values):
                values[position] = names.get(name, name)
