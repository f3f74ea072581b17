"""Nests: which inputs each output reads, where the image is walked over as rows and where as one line."""

import pytest

from pocketpipe.targets.lowering.nest import Raster, Window, convolution


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        (Window(4, 4, taps=3, before=1), Window(4, 4, taps=3, before=1)),
        (Window(9, 5, taps=3, stride=2, dilation=2, before=2), Window(7, 3, taps=2, stride=3, before=1)),
    ],
)
def test_a_raster_reads_what_rows_and_columns_read(rows: Window, columns: Window) -> None:
    raster = Raster(rows, columns)
    by_both = {
        (y * columns.out + x, ky * columns.taps + kx): rows.position(y, ky) * columns.size + columns.position(x, kx)
        for y in range(rows.out) for x in range(columns.out)
        for ky in rows.valid_taps(y) for kx in columns.valid_taps(x)
    }  # fmt: skip
    assert {
        (out, tap): raster.position(out, tap) for out in range(raster.out) for tap in raster.valid_taps(out)
    } == by_both
    assert (raster.size, raster.taps) == (rows.size * columns.size, rows.taps * columns.taps)


@pytest.mark.parametrize(
    ("size", "kernel", "padding", "lines"),
    [
        (8, 3, 1, (8, 8)),  # rows fill tiles
        (4, 1, 0, (1, 16)),
        (4, 3, 1, (1, 16)),
        (1, 1, 0, (1, 1)),
    ],
)
def test_rows_of_narrow_images_are_one_line(size: int, kernel: int, padding: int, lines: tuple[int, int]) -> None:
    nest = convolution(
        (1, size, size, 5), (kernel, kernel, 5, 7), (1, size, size, 7), strides=(1, 1), padding=(padding,) * 4,
        dilation=(1, 1), groups=1, constant=True,
    )  # fmt: skip
    rows, columns = nest.lines
    assert (rows.out, columns.out) == lines
