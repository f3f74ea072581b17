"""Layer: one weight of a network, where it is applied, how it is stored, and what it costs."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from math import ceil, prod
from typing import NamedTuple

from pocketpipe.buffers import Axis, Widths
from pocketpipe.doors import Value

BIAS_BYTES = 4
"""A bias element is float32, or int32 beside integer weights."""
PRODUCTS = ("conv", "linear", "lstm", "gru", "rnn")
"""How the names of operators begin that multiply by a weight."""


class LayerCost(NamedTuple):
    """What one layer costs."""

    macs: int
    """Multiply-accumulates of one example."""
    parameters: int
    """Elements of weight and bias as exported."""
    stored_bytes: int
    """In transport: the elements, or a bit for each and those that are not zero, whichever is less."""
    resident_bytes: int
    """In memory: all elements, zeros too."""
    flash_bytes: int
    """On a device: floats whole, integers as bytes or as indices of 1, 2 or 4 bits into a table."""


class Layer(Value):
    """A layer with a weight: its MACs are `positions` times the elements of the weight, and times `over`.

    A product of two activations is a layer without a weight (`weight=()`): it costs MACs and stores nothing.
    """

    name: str
    operator: str
    """conv2d, linear, ..."""
    weight: tuple[Axis, ...]
    bias: Axis | None = None
    """Set if the exported layer has a bias (its own, or from the BatchNorm folded into it)."""
    positions: int
    """Output positions of one example at which the weight is applied, summed over calls."""
    output_shape: tuple[int, ...]
    over: tuple[Axis, ...] = ()
    """Lengths that multiply its MACs and change with the widths of groups, so that `positions` leaves them out."""
    stored_bits: float = 32
    """Bits that one element of the weight takes in transport: an upper bound where they are Huffman-coded."""
    resident_bits: int = 32
    """Bits of the same unpacked, as it lies in memory."""
    index_bits: int = 8
    """Bits of an index into a table of values, where these are few; with integer weights a device stores indices."""
    on_a_grid: bool = False
    """Whether its values lie on a grid of 8-bit integers already, which quantization keeps."""
    density: float = 1.0
    """Largest share of the weight's elements that are not zero."""
    side_bytes: int = 0
    """Bytes that belong to the weight beside its elements: scales, centroids, their nodes in the graph."""
    file_side_bytes: int = 0
    """Of these, what only a file has and no device: names and nodes, factors that a device's scales contain."""

    @property
    def multiplies(self) -> bool:
        """Whether it is a product with a matrix or kernel of its own, whose elements can be zero or share values."""
        return self.operator.startswith(PRODUCTS) and len(self.weight) > 1

    @property
    def out_axis(self) -> int:
        """The axis of the weight that makes output channels; the other one of the first two reads input channels."""
        return 1 if "transpose" in self.operator else 0

    def cost(self, widths: Widths) -> LayerCost:
        """What it costs; one look at its axes for all terms, as searches ask thousands of times."""
        elements, beside = self._weight_elements(widths), self.side_bytes
        parameters = elements
        if self.bias is not None:
            bias = self.bias.size(widths)
            parameters, beside = parameters + bias, beside + BIAS_BYTES * bias
        over = prod(axis.size(widths) for axis in self.over)
        dense = ceil(elements * self.stored_bits / 8)
        sparse = ceil(elements / 8) + ceil(ceil(elements * self.density) * self.stored_bits / 8)
        on_device = self.resident_bits if self.resident_bits > 8 else self.index_bits
        return LayerCost(
            macs=self.positions * over * (elements if self.weight else 1),
            parameters=parameters,
            stored_bytes=min(dense, sparse) + beside,
            resident_bytes=ceil(elements * self.resident_bits / 8) + beside,
            flash_bytes=ceil(elements * on_device / 8) + beside - self.file_side_bytes,
        )

    def narrowed(self, before: Widths, after: Widths) -> "Layer":
        """The layer when groups that are as wide as `before` become as wide as `after`.

        All that is not zero may lie in the channels that stay, so a sparse layer can only become denser.
        """
        if self.density == 1:
            return self
        nonzero, elements = ceil(self._weight_elements(before) * self.density), max(1, self._weight_elements(after))
        return self.model_copy(update={"density": exact_share(min(nonzero, elements), elements)})

    def _weight_elements(self, widths: Widths) -> int:
        return prod(axis.size(widths) for axis in self.weight) if self.weight else 0


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether one of the patterns (as of file names) matches the name.

    >>> matches("layer1.0.conv1", ["conv1", "layer1.*"])
    True
    """
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def exact_share(count: int, elements: int) -> float:
    """A density of which every rounding of density * elements, up or to the nearest, is `count`.

    >>> ceil(25 * (7 / 25)), ceil(25 * exact_share(7, 25))
    (8, 7)
    """
    share = count / elements
    return share if ceil(elements * share) == count else (count - 1e-6) / elements


def bits_of_index(bits: int) -> int:
    """Bits of an index that tells `2 ** bits` values apart, where no index lies across two bytes.

    >>> [bits_of_index(bits) for bits in (1, 2, 3, 4, 5)]
    [1, 2, 4, 4, 8]
    """
    return next(size for size in (1, 2, 4, 8) if size >= bits)
