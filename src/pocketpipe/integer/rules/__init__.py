"""How each ONNX operator becomes part of the integer graph."""

from pocketpipe.integer.rules import (  # noqa: F401  they register
    affine,
    elementwise,
    functions,
    grid,
    moving,
    normalizing,
    padding,
    pooling,
    products,
    resizing,
    upsampling,
)
from pocketpipe.integer.rules.registry import MOVING, RULES

__all__ = ["MOVING", "RULES"]
