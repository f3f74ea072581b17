"""Packed weights: each number lies where the tile that reads it looks for it."""

import numpy as np

from pocketpipe.targets.lowering.nest import Nest, convolution, matrix_product
from pocketpipe.targets.lowering.packing import packed, packed_before, packed_size
from pocketpipe.targets.lowering.tiling import channel_tiles


def test_every_weight_lies_in_its_tile_step_after_step() -> None:
    groups, summed, channels = 2, 3, 45
    weight = np.random.default_rng(0).normal(size=(3, 2, summed, groups * channels)).astype(np.float32)
    nest = convolution(
        (1, 8, 8, groups * summed), weight.shape, (1, 6, 7, groups * channels), strides=(1, 1), padding=(0, 0, 0, 0),
        dilation=(1, 1), groups=groups, constant=True,
    )  # fmt: skip
    lies_in_its_tiles(nest, weight, weight.reshape(nest.steps, groups, channels).transpose(1, 0, 2))


def test_so_does_every_weight_of_a_matrix_for_each_head() -> None:
    weight = np.random.default_rng(0).normal(size=(1, 3, 7, 45)).astype(np.float32)
    nest = matrix_product((1, 3, 5, 7), weight.shape, constant=True)
    lies_in_its_tiles(nest, weight, weight[0])


def lies_in_its_tiles(nest: Nest, weight: np.ndarray, expected: np.ndarray) -> None:
    """`expected` (outer, steps, channels)."""
    tiles = channel_tiles(nest, lanes=4, vectors=3)
    found = packed(nest, tiles, weight)
    assert found.shape == (nest.outer, packed_size(nest, tiles))
    for tile in tiles:
        start = packed_before(nest, tiles, tile)
        parts = found[:, start : start + tile.repeats * nest.steps * tile.read]
        by_tile = parts.reshape(nest.outer, tile.repeats, nest.steps, tile.read)
        for offset, place, used in zip(tile.offsets, np.cumsum([0, *tile.lanes]), tile.used, strict=False):
            for number in range(tile.repeats):
                first = tile.start + number * tile.width + offset
                assert np.array_equal(by_tile[:, number, :, place : place + used], expected[:, :, first : first + used])
