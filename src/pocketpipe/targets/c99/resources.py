"""What the C sources would take on an FPGA, worked out from the graph: an estimate to choose a device and a clock by.

The model of the machine: operators run one after the other, each on a circuit of its own (the kernels are inlined). The
loop over the products of a sum (of a product of two tensors: of neighbouring sums) starts `unroll` of them in every
cycle, and takes FILL cycles more for its last ones to come through; every other loop handles one element a cycle.
Loading of the next sum does not overlap with it. What the tool itself reports after synthesis goes before all of this.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import singledispatch

import numpy as np

from pocketpipe.delivery.resources import LayerResources, Resources
from pocketpipe.integer.codebook import Codebook
from pocketpipe.integer.fixed_point import Requantization
from pocketpipe.integer.graph import (
    Add,
    Convolution,
    IntegerGraph,
    LayerNorm,
    Linear,
    MatMul,
    MaxPool,
    Multiply,
    Operator,
    Pad,
    Reshape,
    Softmax,
    SumPool,
)
from pocketpipe.integer.proof import bound
from pocketpipe.targets.c99.sources import Sources

FILL = 4
"""Cycles from reading two factors to having added their product: read, multiply, add up, accumulate."""

COLUMNS = 32
"""Of a product of two tensors, whose sums grow together (`kernels.h`)."""

ROOT, DIVISION = 32, 64
"""Cycles of an integer root and of a division: a bit of the result in each."""

REQUANTIZATION_DSP = 4
"""int32 by a multiplier of 31 bits on blocks of 27 x 18 bits: two parts times two parts."""

BLOCK_DEPTH = {9: 2048, 18: 1024, 36: 512}
"""Words of an 18-kbit block by their width in bits."""

LARGEST_IN_LOGIC = 1024
"""Bits of a memory that tools make of logic rather than of a block."""


def resources(graph: IntegerGraph, made: Sources, *, unroll: int, clock_mhz: float) -> Resources:
    """Of the C sources `made` of `graph`, with `unroll` products a cycle."""
    return Resources(
        unroll=unroll,
        clock_mhz=clock_mhz,
        layers=tuple(_layers(graph, made, unroll)),
        buffer_bram=unroll * blocks(-(-made.arena // unroll), 8),
    )


def _layers(graph: IntegerGraph, made: Sources, unroll: int) -> Iterator[LayerResources]:
    entering, leaving = graph.tensors[graph.input].elements, graph.tensors[graph.output].elements
    yield LayerResources(name=graph.input, kind="Enter", macs=0, cycles=entering, dsp=0, bram=blocks(made.entry, 8))
    for operator in graph.operators:
        if not isinstance(operator, Reshape):  # nothing is done
            macs, cycles, dsp = spent(operator, graph, unroll)
            proven = bound(operator, graph, offset=0)
            yield LayerResources(
                name=operator.name,
                kind=type(operator).__name__,
                macs=macs,
                cycles=cycles,
                dsp=dsp,
                bram=sum(_constants(operator, unroll, made.codebooks.get(operator.output))),
                bits=None if proven is None else proven.bits,
            )
    yield LayerResources(name=graph.output, kind="Leave", macs=0, cycles=leaving, dsp=0, bram=0)


def blocks(depth: int, width: int) -> int:
    """18-kbit blocks of a memory of `depth` words of `width` bits; 0 if it fits logic.

    >>> blocks(2048, 8), blocks(2049, 8), blocks(600, 32), blocks(128, 8)
    (1, 2, 2, 0)
    """
    if depth * width <= LARGEST_IN_LOGIC:
        return 0
    return -(-depth // BLOCK_DEPTH[next(wide for wide in BLOCK_DEPTH if width <= wide)])


def sums_of_products(sums: int, runs: int, products: int, unroll: int) -> tuple[int, int]:
    """(MACs, cycles) of `sums` sums, each of `runs` loops over `products` products.

    A loop takes ceil(products / unroll) cycles, one for each group of products that starts, and FILL.

    >>> sums_of_products(sums=10, runs=9, products=16, unroll=8)
    (1440, 540)
    """
    return sums * runs * products, sums * runs * (-(-products // unroll) + FILL)


@singledispatch
def spent(operator: Operator, graph: IntegerGraph, unroll: int) -> tuple[int, int, int]:
    """(MACs, cycles, DSP blocks) of an operator. One that only moves or looks up: an element a cycle."""
    return 0, graph.tensors[operator.output].elements, 0


@spent.register
def _(operator: Convolution, graph: IntegerGraph, unroll: int) -> tuple[int, int, int]:
    """A loop over the input channels of the group for each place of the window; padding is multiplied like the rest."""
    _, height, width, read = operator.weight.shape
    sums = graph.tensors[operator.output].elements
    return *sums_of_products(sums, height * width, read, unroll), min(unroll, read) + REQUANTIZATION_DSP


@spent.register
def _(operator: Linear, graph: IntegerGraph, unroll: int) -> tuple[int, int, int]:
    read = operator.weight.shape[1]
    sums = graph.tensors[operator.output].elements
    return *sums_of_products(sums, 1, read, unroll), min(unroll, read) + REQUANTIZATION_DSP


@spent.register
def _(operator: MatMul, graph: IntegerGraph, unroll: int) -> tuple[int, int, int]:
    """A loop over up to COLUMNS neighbours for each factor of a row; sums are cleared before and scaled behind."""
    inner, made = graph.tensors[operator.inputs[0]].shape[-1], graph.tensors[operator.output]
    columns = made.shape[-1]
    widths = [min(COLUMNS, columns - first) for first in range(0, columns, COLUMNS)]
    found = (sums_of_products(made.elements // columns, inner, width, unroll) for width in widths)
    macs, cycles = map(sum, zip(*found, strict=True))
    return macs, cycles + 2 * made.elements, min(unroll, widths[0]) + REQUANTIZATION_DSP


@spent.register
def _(operator: Add, graph: IntegerGraph, unroll: int) -> tuple[int, int, int]:
    """A difference of 9 bits by a multiplier of 22 bits takes a block for each input."""
    return 0, graph.tensors[operator.output].elements, len(operator.inputs)


@spent.register
def _(operator: Multiply, graph: IntegerGraph, unroll: int) -> tuple[int, int, int]:
    return 0, graph.tensors[operator.output].elements, 1 + REQUANTIZATION_DSP


@spent.register
def _(operator: SumPool, graph: IntegerGraph, unroll: int) -> tuple[int, int, int]:
    return 0, graph.tensors[operator.output].elements * int(np.prod(operator.window)), REQUANTIZATION_DSP


@spent.register
def _(operator: MaxPool, graph: IntegerGraph, unroll: int) -> tuple[int, int, int]:
    return 0, graph.tensors[operator.output].elements * int(np.prod(operator.window)), 0


@spent.register
def _(operator: LayerNorm, graph: IntegerGraph, unroll: int) -> tuple[int, int, int]:
    """Each row is read twice. A square, a difference of 24 bits by a reciprocal, and by a number of its own."""
    tensor = graph.tensors[operator.output]
    rows = tensor.elements // tensor.shape[-1]
    return 0, 2 * tensor.elements + rows * (ROOT + DIVISION), 1 + 2 * REQUANTIZATION_DSP


@spent.register
def _(operator: Softmax, graph: IntegerGraph, unroll: int) -> tuple[int, int, int]:
    """Each row is read three times. A number of 24 bits by a reciprocal of 37 bits takes three blocks."""
    tensor = graph.tensors[operator.output]
    rows = tensor.elements // tensor.shape[-1]
    return 0, 3 * tensor.elements + rows * DIVISION, 3 + REQUANTIZATION_DSP


@spent.register
def _(operator: Pad, graph: IntegerGraph, unroll: int) -> tuple[int, int, int]:
    """All of it is filled, then the input is moved in."""
    elements = (graph.tensors[name].elements for name in (operator.output, operator.inputs[0]))
    return 0, sum(elements), 0


def _constants(operator: Operator, unroll: int, codebook: Codebook | None) -> Iterator[int]:
    """Blocks of each array of constants; weights lie in `unroll` banks, so that as many are read together.

    Of a layer with a codebook the indices do, packed in bytes; its table is there `unroll` times.
    """
    for value in vars(operator).values():
        if isinstance(value, Requantization):
            yield blocks(value.multiplier.size, 32)
            yield blocks(value.shift.size, 8)
        elif isinstance(value, np.ndarray):
            is_weight = bool(value is getattr(operator, "weight", None))
            stored = value if codebook is None or not is_weight else codebook.indices
            banks = unroll if is_weight else 1
            yield banks * blocks(-(-stored.size // banks), 8 * stored.itemsize)
    if codebook is not None:
        yield unroll * blocks(codebook.tables.size, 8)


def sheet(found: Resources) -> str:
    """The estimate as a page."""
    rows = "\n".join(
        f"| {layer.name} | {layer.kind} | {layer.macs:,} | {layer.cycles:,} | {layer.macs_per_cycle:.2f} | {layer.dsp} "
        f"| {layer.bram} | {'' if layer.bits is None else layer.bits} |"
        for layer in found.layers
    )
    return f"""# What it takes on an FPGA

Estimated for {found.unroll} products a cycle at {found.clock_mhz:g} MHz; no synthesis tool has run. Operators run one
after the other, each on a circuit of its own.

| | |
|---|---|
| cycles of one example | {found.cycles:,} |
| examples a second | {found.examples_per_second:,.1f} |
| MACs of one example | {found.macs:,} |
| MACs a cycle | {found.macs / found.cycles:.2f} |
| DSP blocks | {found.dsp} |
| BRAM, blocks of 18 kbit | {found.bram} |
| of which working memory | {found.buffer_bram} |

| operator | kind | MACs | cycles | MACs a cycle | DSP | BRAM | bits |
|---|---|---|---|---|---|---|---|
{rows}

- Cycles: a loop over the n products of a sum takes ceil(n / {found.unroll}) + {FILL}; one such loop for each output and
  each place of the window. Of a product of two tensors one for each factor of a row and {COLUMNS} columns, over these.
  Everything else: one element a cycle.
- DSP: one for each of the products formed together, {REQUANTIZATION_DSP} to scale a sum back to eight bits,
  one for each input of a sum of tensors.
- BRAM: weights (or their indices, where they share few values) and working memory in {found.unroll} banks, words of 8
  bits, tables of shared values as many times; biases and factors in words of 32.
  Arrays (or banks) of {LARGEST_IN_LOGIC:,} bits and less are logic.
- Bits: a signed accumulator of so many holds every sum, whatever the input; proven from weights and ranges. The sources
  say `int32_t`.
"""
