"""How each ONNX operator becomes part of the integer graph."""

from pocketpipe.integer.rules import affine, elementwise, functions, grid, moving, normalizing, pooling, products  # noqa: F401  they register
from pocketpipe.integer.rules.registry import MOVING, RULES

__all__ = ["MOVING", "RULES"]
