"""Nest: a sum of products over windows and channels, as numbers; what convolutions and matrix products have in common.

    out[o, y, x, c] = epilogue( sum over (ky, kx, i) of
                                data[o, y*sy + ky*dy - top, x*sx + kx*dx - left, i] * weight[o, ky, kx, i, c] )

`o` runs over groups or matrices of a batch. Depthwise: no sum over `i`, and data is read at `c`.
"""

from dataclasses import dataclass, replace
from enum import Enum
from math import prod
from typing import Any


class Apply(Enum):
    """What an epilogue step does with the value; ADD, SUBTRACT and MULTIPLY take an operand."""

    ADD = "add"
    SUBTRACT = "subtract"
    MULTIPLY = "multiply"
    RELU = "relu"
    CLIP = "clip"


class Spread(Enum):
    """How an operand lies against the output."""

    SAME = "as the output"
    CHANNEL = "one value a channel"
    SCALAR = "one value"


@dataclass(frozen=True)
class EpilogueStep:
    """One elementwise operation on the sum before it is stored."""

    apply: Apply
    spread: Spread = Spread.SCALAR
    bounds: tuple[float, float] = (0.0, 0.0)
    """Lower and upper bound of CLIP."""

    @property
    def has_operand(self) -> bool:
        """Whether the step reads an operand buffer."""
        return self.apply in (Apply.ADD, Apply.SUBTRACT, Apply.MULTIPLY)


@dataclass(frozen=True)
class Window:
    """One spatial axis: input and output length, kernel length, stride, dilation, padding in front."""

    size: int
    out: int
    taps: int = 1
    stride: int = 1
    dilation: int = 1
    before: int = 0

    def position(self, out: Any, tap: Any) -> Any:
        """Input position under `tap` for output position `out`; may lie outside. Works on ints and expressions."""
        return out * self.stride + tap * self.dilation - self.before

    def valid_taps(self, out: int) -> tuple[int, ...]:
        """The taps that lie inside the input at output position `out`."""
        return tuple(tap for tap in range(self.taps) if 0 <= self.position(out, tap) < self.size)

    @property
    def pointwise(self) -> bool:
        """Whether each output is made of the input at its own place alone."""
        return self.size == self.out and self.taps == self.stride == 1 and not self.before

    @property
    def always_inside(self) -> bool:
        """Whether no output position touches padding."""
        return all(len(self.valid_taps(out)) == self.taps for out in {0, self.out - 1})


@dataclass(frozen=True)
class Raster:
    """Rows and columns of a small image as one line of pixels, so that a tile takes pixels of several rows.

    Looks like a Window, but what it says is known only for numbers, not for expressions.

    >>> Raster(Window(4, 4, taps=3, before=1), Window(4, 4, taps=3, before=1)).valid_taps(0)
    (4, 5, 7, 8)
    """

    rows: Window
    columns: Window

    @property
    def size(self) -> int:
        """Pixels of the input."""
        return self.rows.size * self.columns.size

    @property
    def out(self) -> int:
        """Pixels of the output."""
        return self.rows.out * self.columns.out

    @property
    def taps(self) -> int:
        """Of the kernel, row after row."""
        return self.rows.taps * self.columns.taps

    def position(self, out: int, tap: int) -> int:
        """Input pixel under `tap` for output pixel `out`; only of a valid tap."""
        (y, x), (ky, kx) = divmod(out, self.columns.out), divmod(tap, self.columns.taps)
        return int(self.rows.position(y, ky) * self.columns.size + self.columns.position(x, kx))

    def valid_taps(self, out: int) -> tuple[int, ...]:
        """The taps that lie inside the input at output pixel `out`."""
        row, column = divmod(out, self.columns.out)
        across = self.columns.valid_taps(column)
        return tuple(down * self.columns.taps + tap for down in self.rows.valid_taps(row) for tap in across)


NARROW, LONGEST = 4, 32
"""Columns up to which several rows are one line, and pixels that such a line has at most."""
MOST_STEPS = 600
"""Pixels times taps of a raster at most: each tap of each of its tiles is code of its own."""


def joined(rows: int, columns: int) -> int:
    """How many rows of a narrow image are one line, so that a tile can take pixels of several.

    Else each row would read all weights again, which is what takes long there.

    >>> joined(4, 4), joined(40, 2), joined(8, 8)
    (4, 10, 1)
    """
    if columns > NARROW:
        return 1
    return max(count for count in range(1, rows + 1) if rows % count == 0 and count * columns <= LONGEST)


@dataclass(frozen=True)
class Nest:
    """The loop nest of one operator. Strides count elements."""

    rows: Window
    columns: Window
    summed: int
    """Input channels of one output channel (1 if depthwise)."""
    channels: int
    """Output channels of one outer index."""
    outer: int = 1
    data_outer: int = 0
    weight_outer: int = 0
    out_outer: int = 0
    channel_outer: int = 0
    """Step in an operand that has one value a channel."""
    data_pixel: int = 0
    """Step in data from one column to the next: all channels of all groups."""
    out_pixel: int = 0
    weight_step: int = 0
    """Step in weight from one summed channel to the next, where it is not packed."""
    depthwise: bool = False
    packed: bool = False
    """Whether the weight is a constant, brought to the order in which tiles read it (`packing`)."""
    epilogue: tuple[EpilogueStep, ...] = ()

    @property
    def lines(self) -> tuple[Window, Window | Raster]:
        """Rows and columns as tiles walk over them, with rows `joined` where that is done."""
        rows, columns = self.rows, self.columns
        together = 1 if self.depthwise else joined(rows.out, columns.out)
        if rows.pointwise and columns.pointwise:
            count, length = rows.out // together, together * columns.out
            return Window(count, count), Window(length, length)
        steps = rows.out * columns.out * rows.taps * columns.taps
        if 1 < together == rows.out and steps <= MOST_STEPS:
            return Window(1, 1), Raster(rows, columns)
        return rows, columns

    @property
    def steps(self) -> int:
        """Terms of one sum."""
        return self.rows.taps * self.columns.taps * self.summed

    def with_epilogue(self, steps: tuple[EpilogueStep, ...]) -> "Nest":
        """The same nest with another epilogue."""
        return replace(self, epilogue=steps)


def convolution(
    data: tuple[int, ...],
    weight: tuple[int, ...],
    out: tuple[int, ...],
    *,
    strides: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
    groups: int,
    constant: bool,
) -> Nest:
    """Nest of a convolution: `data` (1, H, W, C), `weight` (kh, kw, C / groups, O), `out` (1, oh, ow, O).

    `constant`: whether the weight is one.
    """
    _, height, width, channels = data
    taps_y, taps_x, summed, _ = weight
    _, out_height, out_width, out_channels = out
    rows = Window(height, out_height, taps_y, strides[0], dilation[0], padding[0])
    columns = Window(width, out_width, taps_x, strides[1], dilation[1], padding[1])
    depthwise = groups > 1 and summed == 1 and out_channels == channels
    outer = 1 if depthwise else groups
    return Nest(
        rows=rows,
        columns=columns,
        summed=summed,
        channels=out_channels // outer,
        outer=outer,
        data_outer=summed,
        weight_outer=out_channels // outer,
        out_outer=out_channels // outer,
        channel_outer=out_channels // outer,
        data_pixel=channels,
        out_pixel=out_channels,
        weight_step=out_channels,
        depthwise=depthwise,
        packed=constant and not depthwise,
    )


def matrix_product(left: tuple[int, ...], right: tuple[int, ...], *, constant: bool) -> Nest | None:
    """Nest of `left` (..., M, K) times `right` (..., K, N); None for batches that do not pair up one to one."""
    *batch, inner = left
    *right_batch, summed, channels = right
    if inner != summed:
        return None
    if prod(right_batch) == 1:  # one matrix on the right: all rows of the left are one long matrix
        outer, rows = 1, prod(batch)
    elif len(batch) == len(right_batch) + 1 and batch[:-1] == right_batch:
        outer, rows = prod(right_batch), batch[-1]
    else:
        return None
    return Nest(
        rows=Window(1, 1),
        columns=Window(rows, rows),
        summed=summed,
        channels=channels,
        outer=outer,
        data_outer=rows * summed,
        weight_outer=summed * channels,
        out_outer=rows * channels,
        data_pixel=summed,
        out_pixel=channels,
        weight_step=channels,
        packed=constant,
    )
