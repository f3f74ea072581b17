"""Random small integer networks: a Hypothesis strategy of graphs, for every target to be held against the reference.

Shapes, windows, strides, pads, groups, dilations, channels (1..67), scales, zero points and branches are drawn; the
numbers in weights come from a seed that is drawn. Every graph's sums are proven to fit 32 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import hypothesis
import numpy as np
from hypothesis import HealthCheck, Phase, given
from hypothesis import strategies as st

from pocketpipe.integer import reference
from pocketpipe.integer.fixed_point import Requantization, requantization, shared_shift
from pocketpipe.integer.graph import (
    Add,
    Concatenation,
    Convolution,
    IntegerGraph,
    IntegerTensor,
    LayerNorm,
    Linear,
    MatMul,
    MaxPool,
    Multiply,
    Operator,
    Pad,
    Reshape,
    Slice,
    Softmax,
    SumPool,
    Table,
    Transpose,
)
from pocketpipe.integer.lowering import ADD_BITS
from pocketpipe.integer.proof import prove

MOST_CHANNELS = 67
MOST_ELEMENTS = 4000
"""Of a tensor: a network runs in a moment."""
MOST_STEPS = 8


class Growing:
    """A graph that grows at its end; each method appends operators and draws what they are like."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        self.tensors: dict[str, IntegerTensor] = {}
        self.operators: list[Operator] = []
        height, width = self.integer(1, 9), self.integer(1, 9)
        channels = self.integer(1, min(MOST_CHANNELS, MOST_ELEMENTS // (height * width)))
        self.end = "input"
        self.tensors["input"] = self.tensor((height, width, channels), -128, 127)

    def integer(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def one_of(self, values: Sequence[int]) -> int:
        return self.draw(st.sampled_from(list(values)))

    def tensor(self, shape: Sequence[int], low: int, high: int) -> IntegerTensor:
        return IntegerTensor(tuple(shape), 0.05, self.near(low, high), low, high)

    def range(self) -> tuple[int, int]:
        """Mostly that of int8, sometimes that of fewer bits or of a clip."""
        return self.draw(st.sampled_from([(-128, 127)] * 6 + [(-8, 7), (0, 127), (-128, -1), (-20, 90)]))

    @property
    def last(self) -> IntegerTensor:
        return self.tensors[self.end]

    def add(self, operator: Callable[[str, str], Operator], made: IntegerTensor) -> str:
        """`operator`: of (its name, its output)."""
        name = f"{len(self.operators)}"
        self.operators.append(operator(f"operator {name}", name))
        self.tensors[name] = made
        self.end = name
        return name

    def ending(self, typical: float, channels: int) -> tuple[Requantization, tuple[int, int]]:
        """A requantization that spreads sums of `typical` size over int8, one factor a channel or one for all."""
        low, high = self.range()
        count = channels if self.draw(st.booleans()) else 1
        size = self.draw(st.sampled_from([1.0] * 6 + [0.05, 8.0]))
        factors = self.random.uniform(0.3, 1.5, count) * size * 60 / max(typical, 1.0)
        if self.draw(st.integers(0, 9)) == 0:
            factors[0] = 0.0
        return requantization(factors, self.near(low, high), low, high), (low, high)

    def near(self, low: int, high: int) -> int:
        """A zero point inside the range or a little beside it, so that not everything is clipped."""
        return self.integer(max(low - 20, -128), min(high + 20, 127))

    def weights(self, *shape: int) -> np.ndarray:
        """Any integers, or few different ones, of the layer or of each channel, as a codebook leaves."""
        values = self.one_of([0, 0, 2, 3, 16])
        if not values:
            return self.random.integers(-128, 128, shape).astype(np.int8)
        tables = self.random.integers(-128, 128, (shape[0], values))
        if self.draw(st.booleans()):
            tables[:] = tables[0]
        indices = self.random.integers(0, values, (shape[0], int(np.prod(shape[1:]))))
        return np.take_along_axis(tables, indices, 1).reshape(shape).astype(np.int8)

    def convolution(self) -> None:
        x, source = self.last, self.end
        height, width, channels = x.shape
        groups = self.one_of([1, 1, channels, *(g for g in range(2, channels) if channels % g == 0)])
        room = max(1, min(MOST_CHANNELS, MOST_ELEMENTS // (height * width)) // groups)
        made = groups * self.integer(1, room) if groups < channels else groups * self.integer(1, min(2, room))
        kernel, strides, pads, dilations, out = self.windows((height, width), with_dilation=True)
        taps = kernel[0] * kernel[1] * channels // groups
        requantize, limits = self.ending(74.0 * 74.0 * taps**0.5, made)
        weight = self.weights(made, *kernel, channels // groups)
        bias = self.random.integers(-5000, 5001, made).astype(np.int32)
        self.add(
            lambda name, output: Convolution(
                name, (source,), output, weight, bias, strides, pads, dilations, groups, x.zero_point, requantize
            ),
            self.tensor((*out, made), *limits),
        )

    def windows(
        self, size: tuple[int, int], with_dilation: bool
    ) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int, int, int], tuple[int, int], tuple[int, int]]:
        """(window, strides, pads, dilations, rows and columns that come out), for each of two axes."""
        drawn = [self._windows_of(length, with_dilation) for length in size]
        (k, s, before, after, d, n), (k2, s2, before2, after2, d2, n2) = drawn
        return (k, k2), (s, s2), (before, before2, after, after2), (d, d2), (n, n2)

    def _windows_of(self, length: int, with_dilation: bool) -> tuple[int, int, int, int, int, int]:
        kernel = self.integer(1, 3)
        dilation = self.integer(1, 2) if with_dilation else 1
        span = (kernel - 1) * dilation + 1
        before, after = self.integer(0, kernel - 1), self.integer(0, kernel - 1)
        after += max(0, span - length - before - after) if with_dilation else 0
        if length + before + after < span:
            kernel, before, after, span = 1, 0, 0, 1
        stride = self.integer(1, 3)
        return kernel, stride, before, after, dilation, (length + before + after - span) // stride + 1

    def shortcut(self) -> None:
        """A convolution that keeps the shape, and the sum with what went in; or their product."""
        before, source = self.last, self.end
        channels = before.shape[-1]
        requantize, limits = self.ending(74.0 * 74.0 * (9 * channels) ** 0.5, channels)
        weight = self.weights(channels, 3, 3, channels)
        bias = self.random.integers(-5000, 5001, channels).astype(np.int32)
        self.add(
            lambda name, output: Convolution(
                name, (source,), output, weight, bias, (1, 1), (1, 1, 1, 1), (1, 1), 1, before.zero_point, requantize
            ),
            self.tensor(before.shape, *limits),
        )
        self.together(source, self.end)

    def gate(self) -> None:
        """The mean of each channel, through a table, times the image."""
        source, shape = self.end, self.last.shape
        self.mean()
        self.table()
        self.together(source, self.end, shape, product=True)

    def together(self, left: str, right: str, shape: Sequence[int] = (), product: bool | None = None) -> None:
        """Sum, difference or product of two tensors, the second one repeated where it is shorter."""
        zero_points = (self.tensors[left].zero_point, self.tensors[right].zero_point)
        shape = shape or self.tensors[left].shape
        if product if product is not None else self.one_of([0, 0, 1]):
            requantize, limits = self.ending(74.0 * 74.0, 1)
            self.add(
                lambda name, output: Multiply(name, (left, right), output, zero_points, requantize),
                self.tensor(shape, *limits),
            )
            return
        factors = (self.random.uniform(0.2, 1.2), self.random.uniform(0.2, 1.2) * self.one_of([1, 1, -1]))
        multipliers, shift = shared_shift(factors, ADD_BITS)
        low, high = self.range()
        made = self.tensor(shape, low, high)
        self.add(
            lambda name, output: Add(
                name, (left, right), output, multipliers, shift, zero_points, made.zero_point, low, high
            ),
            made,
        )

    def rescaling(self) -> None:
        source, x, (low, high) = self.end, self.last, self.range()
        multipliers, shift = shared_shift((self.random.uniform(0.1, 3.0),), ADD_BITS)
        made = self.tensor(x.shape, low, high)
        self.add(
            lambda name, output: Add(
                name, (source,), output, multipliers, shift, (x.zero_point,), made.zero_point, low, high
            ),
            made,
        )

    def concatenation(self) -> None:
        """With its own function, along any axis."""
        source = self.end
        axis = self.integer(1, len(self.last.shape))
        self.table()
        other = self.end
        first, second = self.tensors[source], self.tensors[other]
        shape = tuple(n * 2 if i == axis - 1 else n for i, n in enumerate(first.shape))
        if np.prod(shape) <= MOST_ELEMENTS and shape[-1] <= MOST_CHANNELS:
            made = self.tensor(shape, min(first.low, second.low), max(first.high, second.high))
            self.add(lambda name, output: Concatenation(name, (source, other), output, axis), made)

    def sum_pool(self) -> None:
        x, source = self.last, self.end
        window, strides, pads, _, out = self.windows((x.shape[0], x.shape[1]), with_dilation=False)
        requantize, limits = self.ending(74.0 * (window[0] * window[1]) ** 0.5, x.shape[2])
        self.add(
            lambda name, output: SumPool(name, (source,), output, window, strides, pads, x.zero_point, requantize),
            self.tensor((*out, x.shape[2]), *limits),
        )

    def mean(self) -> None:
        x, source = self.last, self.end
        height, width, channels = x.shape
        requantize, limits = self.ending(74.0 * (height * width) ** 0.5, 1)
        self.add(
            lambda name, output: SumPool(
                name, (source,), output, (height, width), (1, 1), (0, 0, 0, 0), x.zero_point, requantize
            ),
            self.tensor((1, 1, channels), *limits),
        )

    def max_pool(self) -> None:
        x, source = self.last, self.end
        window, strides, pads, _, out = self.windows((x.shape[0], x.shape[1]), with_dilation=False)
        self.add(
            lambda name, output: MaxPool(name, (source,), output, window, strides, pads),
            replace(x, shape=(*out, x.shape[2])),
        )

    def table(self) -> None:
        source, x = self.end, self.last
        entries = self.random.integers(-128, 128, 256).astype(np.int8)
        reached = entries[x.low + 128 : x.high + 129]
        made = self.tensor(x.shape, int(reached.min()), int(reached.max()))
        self.add(lambda name, output: Table(name, (source,), output, entries), made)

    def pad(self) -> None:
        source, x = self.end, self.last
        amounts = tuple((self.integer(0, 2), self.integer(0, 2)) for _ in x.shape)
        shape = tuple(n + before + after for n, (before, after) in zip(x.shape, amounts, strict=True))
        if np.prod(shape) <= MOST_ELEMENTS and shape[-1] <= MOST_CHANNELS:
            value = self.integer(-128, 127)
            made = replace(x, shape=shape, low=min(x.low, value), high=max(x.high, value))
            self.add(lambda name, output: Pad(name, (source,), output, amounts, value), made)

    def cut(self) -> None:
        source, x = self.end, self.last
        ranges = tuple((self.integer(0, n - 1), n, self.integer(1, 2)) for n in x.shape)
        shape = tuple(len(range(*bounds)) for bounds in ranges)
        self.add(lambda name, output: Slice(name, (source,), output, ranges), replace(x, shape=shape))

    def transpose(self) -> None:
        source, x = self.end, self.last
        order = self.draw(st.permutations(range(len(x.shape))))
        shape = tuple(x.shape[axis] for axis in order)
        turned = (0, *(axis + 1 for axis in order))
        self.add(lambda name, output: Transpose(name, (source,), output, turned), replace(x, shape=shape))

    def rows(self) -> None:
        """An image as rows: pixels of channels, or one of all."""
        source, x = self.end, self.last
        height, width, channels = x.shape
        shape = (x.elements,) if self.integer(0, 3) == 0 else (height * width, channels)
        self.add(lambda name, output: Reshape(name, (source,), output, shape), replace(x, shape=shape))

    def linear(self) -> None:
        source, x = self.end, self.last
        read = x.shape[-1]
        made = self.integer(1, max(1, min(MOST_CHANNELS, MOST_ELEMENTS // (x.elements // read))))
        requantize, limits = self.ending(74.0 * 74.0 * read**0.5, made)
        weight = self.weights(made, read)
        bias = self.random.integers(-5000, 5001, made).astype(np.int32)
        self.add(
            lambda name, output: Linear(name, (source,), output, weight, bias, requantize),
            self.tensor((*x.shape[:-1], made), *limits),
        )

    def square(self) -> None:
        """The product of rows with themselves, turned."""
        source, x = self.end, self.last
        if len(x.shape) == 2 and x.shape[0] <= 40:
            self.add(
                lambda name, output: Transpose(name, (source,), output, (0, 2, 1)), replace(x, shape=x.shape[::-1])
            )
            turned = self.end
            requantize, limits = self.ending(74.0 * 74.0 * x.shape[1] ** 0.5, 1)
            zero_points = (x.zero_point, x.zero_point)
            self.add(
                lambda name, output: MatMul(name, (source, turned), output, zero_points, requantize),
                self.tensor((x.shape[0], x.shape[0]), *limits),
            )

    def layer_norm(self) -> None:
        source, x = self.end, self.last
        low, high = self.range()
        made = self.tensor(x.shape, low, high)
        shift = self.integer(30, 46)
        width = x.shape[-1]
        multiplier = np.floor(self.random.normal(0, 30, width) * 2.0 ** min(shift - 16, 22)).astype(np.int32)
        bias = self.random.integers(-(2**22), 2**22, width).astype(np.int32)
        epsilon = self.draw(st.sampled_from([1, 1, 2**10, 2**31, 2**59]))
        self.add(
            lambda name, output: LayerNorm(
                name, (source,), output, epsilon, multiplier, bias, shift, made.zero_point, low, high
            ),
            made,
        )

    def softmax(self) -> None:
        source, x = self.end, self.last
        exponentials = np.floor(np.exp(-np.arange(256) * self.random.uniform(0.001, 0.5)) * 2**23 + 0.5)
        requantize = requantization(np.array([255 / 2.0**30]), -128, -128, 127)
        self.add(
            lambda name, output: Softmax(name, (source,), output, exponentials.astype(np.int32), requantize),
            self.tensor(x.shape, -128, 127),
        )

    def graph(self) -> IntegerGraph:
        return IntegerGraph(self.tensors, tuple(self.operators), "input", self.end)


ON_IMAGES = (
    Growing.convolution, Growing.convolution, Growing.convolution, Growing.shortcut, Growing.gate, Growing.sum_pool,
    Growing.max_pool, Growing.pad,
)  # fmt: skip
ON_ALL = (
    Growing.table, Growing.rescaling, Growing.concatenation, Growing.cut, Growing.transpose, Growing.layer_norm,
    Growing.softmax,
)  # fmt: skip
ON_ROWS = (Growing.linear, Growing.linear, Growing.linear, Growing.square, Growing.square)


@st.composite
def networks(draw: st.DrawFn) -> IntegerGraph:
    """A graph of a few operators on an image, and perhaps some more on its rows; its outputs are not all the same."""
    growing = Growing(draw)
    for _ in range(draw(st.integers(2, MOST_STEPS))):
        draw(st.sampled_from([*ON_IMAGES, *ON_ALL]))(growing)
    if draw(st.integers(0, 2)):
        growing.rows()
        for _ in range(draw(st.integers(1, 3))):
            draw(st.sampled_from([*ON_ROWS, *ON_ALL]))(growing)
    graph = growing.graph()
    prove(graph)
    hypothesis.assume(len(np.unique(reference.run(graph, some_inputs(graph)))) > 2)  # what is constant shows nothing
    return graph


def some_networks(count: int, seed: int) -> list[IntegerGraph]:
    """As many graphs: the same for the same seed."""
    found: list[IntegerGraph] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(networks())
    def collect(graph: IntegerGraph) -> None:
        found.append(graph)

    collect()
    assert len(found) == count, "a test of no network would pass"
    return found


def some_inputs(graph: IntegerGraph, seed: int = 0) -> np.ndarray:
    """int8 examples (4, ...): random ones, and the extremes."""
    shape = graph.tensors[graph.input].shape
    random = np.random.default_rng(seed).integers(-128, 128, (2, *shape))
    return np.concatenate([random, np.full((1, *shape), -128), np.full((1, *shape), 127)]).astype(np.int8)
