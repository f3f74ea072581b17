"""Shapes of an ONNX file's values: known, or a line that says whose is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pocketpipe.errors import UserError
from pocketpipe.integer.graph import Shape

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

FIXED = "export the network with a fixed shape"


class Shapes(dict[str, Shape]):
    """Shape of every value without its batch axis, which alone may be open.

    Reading one that neither the file nor inference knows raises UserError that names the node which makes it.
    """

    def __init__(self, model: ModelProto) -> None:
        values = (*model.graph.input, *model.graph.output, *model.graph.value_info)
        shapes = ((value.name, _known(value)) for value in values)
        super().__init__((name, shape) for name, shape in shapes if shape is not None)
        self.makers = {name: node for node in model.graph.node for name in node.output}

    def __missing__(self, name: str) -> Shape:
        unknown = f"the shape of {name!r}, which it makes, is not known; {FIXED}"
        node = self.makers.get(name)
        who = f"node {node.name or name!r} ({node.op_type}): {unknown}" if node else f"{name!r}: no shape; {FIXED}"
        raise UserError(who)


def refuse_open_shape(value: ValueInfoProto) -> None:
    """Memory and loops are planned for one shape; only the batch may be open, which is 1 here."""
    if not value.type.tensor_type.HasField("shape"):
        raise UserError(f"input {value.name!r} has no shape; {FIXED}")
    lengths = value.type.tensor_type.shape.dim
    if any(length.dim_value < 1 for length in lengths[1:]):
        shape = ", ".join(length.dim_param or str(length.dim_value or "?") for length in lengths)
        raise UserError(f"input {value.name!r} has the shape ({shape}); {FIXED}")


def _known(value: ValueInfoProto) -> Shape | None:
    lengths = tuple(length.dim_value for length in value.type.tensor_type.shape.dim)[1:]
    return lengths if value.type.tensor_type.HasField("shape") and min(lengths, default=1) > 0 else None
