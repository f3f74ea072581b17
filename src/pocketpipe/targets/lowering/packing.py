"""Constant weights in the order in which tiles read them: one long stream, which processors fetch ahead.

As they come, a step to the next summed channel is a step over all output channels: with many of them, each lies in a
page of its own. Packed: (outer, tiles, taps and summed channels, channels of a tile), filled up to whole registers.
"""

from collections.abc import Sequence

import numpy as np

from pocketpipe.targets.lowering.nest import Nest
from pocketpipe.targets.lowering.tiling import ChannelTile


def packed(nest: Nest, tiles: Sequence[ChannelTile], weight: np.ndarray) -> np.ndarray:
    """`weight` (..., outer, out channels) of a packed nest; for matrices of a batch (..., outer, summed, out channels).

    The rank does not tell them apart: a matrix for each head of attention has four axes, as a convolution has.
    """
    if nest.weight_step != nest.outer * nest.channels:
        by_outer = weight.reshape(nest.outer, nest.steps, nest.channels)
    else:
        by_outer = weight.reshape(nest.steps, nest.outer, nest.channels).transpose(1, 0, 2)
    parts = [_of_tile(by_outer, tile, number) for tile in tiles for number in range(tile.repeats)]
    return np.ascontiguousarray(np.concatenate(parts, axis=1))


def _of_tile(by_outer: np.ndarray, tile: ChannelTile, number: int) -> np.ndarray:
    first = tile.start + number * tile.width
    vectors = []
    for offset, lanes, used in zip(tile.offsets, tile.lanes, tile.used, strict=True):
        taken = by_outer[:, :, first + offset : first + offset + used]
        vectors.append(np.pad(taken, ((0, 0), (0, 0), (0, lanes - used))))
    return np.concatenate(vectors, axis=2).reshape(len(by_outer), -1)


def packed_before(nest: Nest, tiles: Sequence[ChannelTile], tile: ChannelTile) -> int:
    """Numbers in front of the weights of a tile."""
    return packed_size(nest, [each for each in tiles if each.start < tile.start])


def packed_size(nest: Nest, tiles: Sequence[ChannelTile]) -> int:
    """Numbers of one outer index."""
    return sum(tile.repeats * nest.steps * tile.read for tile in tiles)
