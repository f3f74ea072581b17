"""What networks for images ask of their input."""

from __future__ import annotations

from collections.abc import Sequence

from pocketpipe.errors import UserError

SMALLEST_MAP = 4


def require_image(network: str, input_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """`input_shape` as (channels, height, width). Raises UserError if it is something else."""
    if len(input_shape) != 3:
        raise UserError(
            f"network {network!r} reads images (channels, height, width); this task's inputs are {input_shape}"
        )
    channels, height, width = input_shape
    return channels, height, width


def fitting_strides(strides: Sequence[int], input_shape: tuple[int, ...]) -> list[int]:
    """`strides` (1 or 2), the first of them set to 1 so that the last map is at least 4x4 (or the image itself).

    >>> fitting_strides([2, 2, 2, 2, 2], (3, 224, 224))
    [2, 2, 2, 2, 2]
    >>> fitting_strides([2, 2, 2, 2, 2], (3, 32, 32))
    [1, 1, 2, 2, 2]
    >>> fitting_strides([2, 1, 2], (1, 8, 8))
    [1, 1, 2]
    """
    side, allowed = min(input_shape[1:]), 0
    while side >= 2 * SMALLEST_MAP:
        side, allowed = side // 2, allowed + 1
    surplus = sum(stride == 2 for stride in strides) - allowed
    fitting = list(strides)
    for index, stride in enumerate(strides):
        if stride == 2 and surplus > 0:
            fitting[index], surplus = 1, surplus - 1
    return fitting
