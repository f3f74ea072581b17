"""Packed weights: each number lies where the tile that reads it looks for it."""

import numpy as np

from pocketpipe.targets.lowering.nest import convolution
from pocketpipe.targets.lowering.packing import packed, packed_before, packed_size
from pocketpipe.targets.lowering.tiling import channel_tiles


def test_every_weight_lies_in_its_tile_step_after_step() -> None:
    groups, summed, channels, lanes = 2, 3, 45, 4
    weight = np.random.default_rng(0).normal(size=(3, 2, summed, groups * channels)).astype(np.float32)
    nest = convolution(
        (1, 8, 8, groups * summed), weight.shape, (1, 6, 7, groups * channels), strides=(1, 1), padding=(0, 0, 0, 0),
        dilation=(1, 1), groups=groups, constant=True,
    )  # fmt: skip
    tiles = channel_tiles(nest, lanes, vectors=3)
    found = packed(nest, tiles, weight)
    assert found.shape == (groups, packed_size(nest, tiles))
    for tile in tiles:
        start = packed_before(nest, tiles, tile)
        parts = found[:, start : start + tile.repeats * nest.steps * tile.read]
        by_tile = parts.reshape(groups, tile.repeats, nest.steps, tile.read)
        for offset, place, used in zip(tile.offsets, np.cumsum([0, *tile.lanes]), tile.used, strict=False):
            for number in range(tile.repeats):
                first = tile.start + number * tile.width + offset
                expected = weight.reshape(nest.steps, groups, channels)[:, :, first : first + used]
                assert np.array_equal(by_tile[:, number, :, place : place + used], expected.transpose(1, 0, 2))
