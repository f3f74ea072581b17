"""How a nest is cut into register tiles: pixels of a line times vectors of channels."""

from dataclasses import dataclass

from pocketpipe.targets.lowering.cpu import Cpu
from pocketpipe.targets.lowering.nest import Nest, Raster, Window

MOST_VECTORS = 8
"""Vectors of channels in a tile at most: enough independent sums to hide the latency of any of our CPUs."""

MOST_PIXELS = 8


@dataclass(frozen=True)
class ChannelTile:
    """`repeats` tiles in a row from channel `start`: each holds vectors of `lanes`, of which `used` are stored."""

    start: int
    repeats: int
    lanes: tuple[int, ...]
    used: tuple[int, ...]

    @property
    def width(self) -> int:
        """Channels of one tile."""
        return sum(self.used)

    @property
    def read(self) -> int:
        """Channels of one tile with those that fill its registers up."""
        return sum(self.lanes)

    @property
    def offsets(self) -> tuple[int, ...]:
        """First channel of each vector, counted from the tile's first."""
        return tuple(sum(self.used[:index]) for index in range(len(self.used)))


@dataclass(frozen=True)
class PixelTile:
    """`repeats` tiles in a row from pixel `start` of a line, each of as many pixels as `taps` has entries.

    `taps[p]`: the taps of the kernel (of one of its rows, where lines are rows) that lie inside the input for pixel p.
    """

    start: int
    repeats: int
    taps: tuple[tuple[int, ...], ...]

    @property
    def width(self) -> int:
        """Pixels of one tile."""
        return len(self.taps)

    def inside(self, tap: int) -> tuple[int, ...]:
        """The pixels for which `tap` lies inside the input."""
        return tuple(pixel for pixel, taps in enumerate(self.taps) if tap in taps)


def tile_shape(nest: Nest, cpu: Cpu) -> tuple[int, int]:
    """(pixels, vectors) of a tile: the more channels the shorter the rows, so that enough sums run at once."""
    _, columns = nest.lines
    pixels = min(columns.out, MOST_PIXELS)
    vectors = min(-(-nest.channels // cpu.lanes), MOST_VECTORS, max(1, cpu.accumulators // pixels))
    return min(pixels, max(1, cpu.accumulators // vectors)), vectors


def channel_tiles(nest: Nest, lanes: int, vectors: int) -> list[ChannelTile]:
    """Cover the channels: whole tiles of `vectors` vectors, then what is left in one more tile.

    >>> from pocketpipe.targets.lowering.nest import matrix_product
    >>> channel_tiles(matrix_product((1, 4), (4, 29), constant=True), lanes=16, vectors=4)
    [ChannelTile(start=0, repeats=1, lanes=(16, 16), used=(16, 13))]
    """
    repeats, left = divmod(nest.channels, lanes * vectors)
    tiles = [ChannelTile(0, repeats, (lanes,) * vectors, (lanes,) * vectors)] if repeats else []
    if left:
        used = (lanes,) * (left // lanes) + ((left % lanes,) if left % lanes else ())
        # A vector of 13 takes a register of 16: packed weights are filled up to it; 13 are stored.
        whole = tuple(_power_of_two(count) for count in used)
        tiles.append(ChannelTile(nest.channels - left, 1, whole if nest.packed else used, used))
    return tiles


def pixel_tiles(columns: Window | Raster, pixels: int) -> list[PixelTile]:
    """Cover a line with tiles of nearly equal width, at most `pixels`; neighbours with the same taps are one loop,
    but in a raster, where what is next depends on the place.

    >>> pixel_tiles(Window(size=6, out=6, taps=3, before=1), 2)
    [PixelTile(start=0, repeats=1, taps=((1, 2), (0, 1, 2))),
     PixelTile(start=2, repeats=1, taps=((0, 1, 2), (0, 1, 2))),
     PixelTile(start=4, repeats=1, taps=((0, 1, 2), (0, 1)))]
    """
    width = -(-columns.out // -(-columns.out // pixels))
    tiles: list[PixelTile] = []
    for start in range(0, columns.out, width):
        taps = tuple(columns.valid_taps(x) for x in range(start, min(start + width, columns.out)))
        if tiles and tiles[-1].taps == taps and isinstance(columns, Window):
            last = tiles.pop()
            tiles.append(PixelTile(last.start, last.repeats + 1, taps))
        else:
            tiles.append(PixelTile(start, 1, taps))
    return tiles


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()
