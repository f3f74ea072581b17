"""How each ONNX operator becomes part of the integer graph."""

from pocketpipe.integer.rules import affine, elementwise, functions, grid, moving, normalizing, pooling, products  # noqa: F401  they register
from pocketpipe.integer.rules.registry import RULES

__all__ = ["RULES"]
