"""Layers of a walked graph, as the profile lists them: every length in terms of the groups of channels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Sequence
from math import prod
from typing import TYPE_CHECKING

from torch import Tensor

from pocketpipe.compression.tracing.walking import LayerCall, Length, ProductCall, Walk
from pocketpipe.compression.weights import is_part_of_parametrization, layer_name
from pocketpipe.profile import Axis, Layer

if TYPE_CHECKING:
    from pocketpipe.compression.tracing.tracer import TracedGroup


def layers_of(walk: Walk, groups: Sequence[TracedGroup], roots: Tensor) -> tuple[Layer, ...]:
    """One entry a weight and one a product of activations, in graph order; then what else the exported file holds.

    `roots` gives each label the one that stands for it. What has no MACs is listed as `parameter`, without positions.
    """
    lengths = Lengths(groups, roots)
    by_weight: dict[str, list[LayerCall]] = {}
    for call in walk.calls:
        by_weight.setdefault(call.weight, []).append(call)
    order = {node: index for index, node in enumerate(walk.values)}
    listed = [
        (order[calls[0].node], layer) for calls in by_weight.values() for layer in _of_weight(walk, calls, lengths)
    ]
    listed += [(order[product.node], _product(product, lengths)) for product in walk.products]
    counted = {name for calls in by_weight.values() for name in _stored_with(walk, calls[-1])}
    in_order = (layer for _, layer in sorted(listed, key=lambda each: each[0]))
    return (*in_order, *_parameters(walk, counted, lengths))


class Lengths:
    """Lengths of axes in terms of groups."""

    def __init__(self, groups: Sequence[TracedGroup], roots: Tensor) -> None:
        self._groups, self._roots = groups, roots
        self._by_root = {root: group for group in groups for root in group.roots.tolist()}

    def of_parameter(self, parameter: str, shape: Sequence[int]) -> tuple[Axis, ...]:
        """One for each axis of a weight."""
        return tuple(self._at((parameter, dim), length) for dim, length in enumerate(shape))

    def _at(self, place: tuple[str, int], length: int) -> Axis:
        inside = {group.name: at for group in self._groups if (at := group.places.get(place)) is not None}
        fixed = length - sum(at.numel() for at in inside.values())
        return Axis(fixed=fixed, groups={name: at.shape[1] for name, at in inside.items()})

    def of(self, length: Length) -> Axis:
        """Of an activation's axis: positions with the labels of a group, the others fixed."""
        size, labels = length
        if labels is None:
            return Axis(fixed=size)
        owners = Counter(
            group.name for root in self._roots[labels].tolist() if (group := self._by_root.get(root)) is not None
        )
        channels = {group.name: group.channels for group in self._groups}
        positions = {name: count // channels[name] for name, count in owners.items()}
        fixed = size - sum(count * channels[name] for name, count in positions.items())
        return Axis(fixed=fixed, groups={name: count for name, count in positions.items() if count})


def _of_weight(walk: Walk, calls: Sequence[LayerCall], lengths: Lengths) -> list[Layer]:
    """A weight, at all the positions of all its calls.

    One that is applied across axes of several kinds (a graph's adjacency matrix) is the layer of the last kind; those
    of the others are products that store nothing.
    """
    over = [tuple(lengths.of(length) for length in call.over) for call in calls]
    last = [call for call, each in zip(calls, over, strict=True) if each == over[-1]]
    layer = _layer(walk, last, over[-1], lengths)
    others = [(call, each) for call, each in zip(calls, over, strict=True) if each != over[-1]]
    return [layer] + [
        Layer(
            name=f"{layer.name} as used before, {number}",
            operator="matmul",
            weight=(),
            positions=call.positions,
            output_shape=call.output_shape,
            over=(*each, *layer.weight),
        )
        for number, (call, each) in enumerate(others)
    ]


def _layer(walk: Walk, calls: Sequence[LayerCall], over: tuple[Axis, ...], lengths: Lengths) -> Layer:
    last = calls[-1]
    bias = next((name for name in _stored_with(walk, last)[1:] if name), None)
    return Layer(
        name=layer_name(last.weight),
        operator=last.operator,
        weight=lengths.of_parameter(last.weight, last.weight_shape),
        bias=None if bias is None else lengths.of_parameter(bias, _shapes(walk)[bias])[0],
        positions=sum(call.positions for call in calls),
        output_shape=last.output_shape,
        over=over,
    )


def _stored_with(walk: Walk, call: LayerCall) -> tuple[str, ...]:
    """The weight, its bias ("" if it has none), and the BatchNorm that the export folds into them."""
    return (call.weight, call.bias or "", *walk.folded_into.get(call.weight, ()))


def _product(product: ProductCall, lengths: Lengths) -> Layer:
    changing = [length for length in product.lengths if length[1] is not None]
    return Layer(
        name=product.name,
        operator="matmul",
        weight=(),
        positions=prod(size for size, labels in product.lengths if labels is None),
        output_shape=product.output_shape,
        over=tuple(lengths.of(length) for length in changing),
    )


def _shapes(walk: Walk) -> dict[str, tuple[int, ...]]:
    values = (value for node, value in walk.values.items() if node.op == "placeholder" and node in walk.needed)
    return {value.parameter: value.shape for value in values if value is not None and value.parameter}


def _parameters(walk: Walk, counted: Container[str], lengths: Lengths) -> list[Layer]:
    """What is stored beside the layers' weights: tables, scales, vectors of normalizations that are not folded."""
    return [
        Layer(
            name=name,
            operator="parameter",
            weight=lengths.of_parameter(name, shape) or (Axis(fixed=1),),
            positions=0,
            output_shape=shape,
        )
        for name, shape in _shapes(walk).items()
        # A mask or a scale on a weight: the exported weight has it in it, or its layer's `side_bytes` count it.
        if name not in counted and not is_part_of_parametrization(name)
    ]
