"""Products of activations with each other, and with weights by letters: attention in all its spellings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from string import ascii_lowercase, ascii_uppercase
from typing import Any

from torch import Tensor, fx

from pocketpipe.compression.tracing.activations import Activation
from pocketpipe.compression.tracing.rules.elementwise import joined
from pocketpipe.compression.tracing.rules.layers import called, product_with_weight
from pocketpipe.compression.tracing.rules.registry import rule, unknown
from pocketpipe.compression.tracing.walking import (
    Length,
    ProductCall,
    Walk,
    arguments,
    describe,
    module_paths,
    shape_of,
)


@dataclass(frozen=True)
class Factor:
    """A tensor in a product, with a letter for each axis: axes with the same letter go together."""

    value: Activation
    letters: str

    def labels(self, walk: Walk, letter: str) -> Tensor | None:
        """Labels along the axis of that letter."""
        return walk.along(self.value, self.letters.index(letter))

    def has(self, letter: str) -> bool:
        """Whether it has such an axis, of more than one position."""
        return letter in self.letters and self.value.shape[self.letters.index(letter)] > 1


@rule("linear")
def linear(walk: Walk, node: fx.Node) -> Any:
    """The last axis of the input meets axis 1 of the weight; axis 0 makes the output."""
    given = arguments(node)
    x, weight = walk.value(given["input"]), walk.value(given["weight"])
    if x is None or weight is None or len(x.shape) < 2 or (x.parameter and not weight.parameter):
        return unknown(walk, node)
    if weight.parameter:
        return product_with_weight(walk, node, x, weight, out_axis=0)
    product = _multiplied(walk, node, x, _transposed(weight))  # a weight that is computed, or a part of one
    bias = walk.value(given["bias"])
    return product if bias is None else joined(walk, node, [product, bias], product.shape)


@rule("matmul", "mm", "bmm")
def matmul(walk: Walk, node: fx.Node) -> Any:
    """With a matrix of weights it is a layer; between activations the summed axes go together."""
    left, right = (walk.value(argument) for argument in node.args[:2])
    if left is None or right is None or min(len(left.shape), len(right.shape)) < 2:
        return unknown(walk, node)
    if left.parameter:
        return unknown(walk, node) if right.parameter else _multiplied(walk, node, left, right)
    if right.parameter and len(right.shape) == 2:
        return product_with_weight(walk, node, left, right, out_axis=1)
    return _multiplied(walk, node, left, right)


@rule("addmm")
def added_to_layer(walk: Walk, node: fx.Node) -> Any:
    """A matrix product with something added: a linear layer as GPT-2 writes it, its weight (in, out)."""
    given = arguments(node)
    added, left, right = (walk.value(given[name]) for name in ("self", "mat1", "mat2"))
    scaled = given.get("alpha", 1) != 1 or given.get("beta", 1) != 1
    if scaled or added is None or left is None or right is None or left.parameter:
        return unknown(walk, node)
    if right.parameter:
        product = product_with_weight(walk, node, left, right, out_axis=1)
    else:
        product = _multiplied(walk, node, left, right)
    return joined(walk, node, [product, added], shape_of(node))


@rule("baddbmm")
def added_to_matmul(walk: Walk, node: fx.Node) -> Any:
    """A product of activations, with something added."""
    added, left, right = (walk.value(argument) for argument in node.args[:3])
    if added is None or left is None or right is None or left.parameter or right.parameter:
        return unknown(walk, node)
    product = _multiplied(walk, node, left, right)
    return joined(walk, node, [product, added], shape_of(node))


def _multiplied(walk: Walk, node: fx.Node, left: Activation, right: Activation, part: str = "") -> Activation:
    """(..., y, z) times (..., z, x); the leading axes are broadcast."""
    count = max(len(left.shape), len(right.shape)) - 2
    batch = ascii_lowercase[:count]
    factors = [
        Factor(left, batch[count + 2 - len(left.shape) :] + "yz"),
        Factor(right, batch[count + 2 - len(right.shape) :] + "zx"),
    ]
    return contracted(walk, node, factors, batch + "yx", part)


@rule("einsum")
def einsum(walk: Walk, node: fx.Node) -> Any:
    """A product of two tensors by letters."""
    equation, listed = str(node.args[0]).replace(" ", ""), node.args[1]
    values = [walk.value(argument) for argument in listed]  # type: ignore[union-attr]
    inputs, arrow, output = equation.partition("->")
    found = [value for value in values if value is not None]
    if "..." in equation and len(found) == len(values):
        inputs, output = _spelled_out(inputs, output, [len(value.shape) for value in found])
    letters = inputs.split(",")
    plain = all(len(set(each)) == len(each) and each.isalpha() for each in letters)
    if len(values) != 2 or len(found) != 2 or not arrow or not plain or all(value.parameter for value in found):
        return unknown(walk, node)
    factors = [Factor(value, each) for value, each in zip(found, letters, strict=True)]
    return contracted(walk, node, factors, output)


def _spelled_out(inputs: str, output: str, ranks: Sequence[int]) -> tuple[str, str]:
    """The same with a letter for each axis that three dots stand for, the last ones together (broadcasting).

    >>> _spelled_out("...d,de", "...e", (3, 2))
    ('ABd,de', 'ABe')
    """
    unused = [letter for letter in ascii_uppercase if letter not in inputs]
    hidden = [rank - len(each.replace("...", "")) for each, rank in zip(inputs.split(","), ranks, strict=True)]
    dots = "".join(unused[: max(hidden)])
    spelled = [
        each.replace("...", dots[len(dots) - count :] if count else "")
        for each, count in zip(inputs.split(","), hidden, strict=True)
    ]
    return ",".join(spelled), output.replace("...", dots)


def contracted(walk: Walk, node: fx.Node, factors: Sequence[Factor], output: str, part: str = "") -> Activation:
    """Axes of the same letter go together; the result carries one axis with labels at most.

    At most one factor is a weight. `part` tells several products of one node apart.
    """
    lengths = {letter: _length(walk, factors, letter) for letter in sorted({*"".join(f.letters for f in factors)})}
    shape = tuple(lengths[letter][0] for letter in output)
    for letter in lengths:
        _meet(walk, node, [factor for factor in factors if factor.has(letter)], letter, letter in output)
    lines = {letter: labels for letter in output if (labels := lengths[letter][1]) is not None}
    carried = _carried(factors, lines, output)
    for letter, labels in lines.items():
        if letter != carried:
            walk.labels.freeze(labels, f"{describe(node)}: another axis of its result carries channels already")
    weight = next((factor for factor in factors if factor.value.parameter), None)
    if weight is None:
        walk.products.append(ProductCall(_name(node, part), tuple(lengths.values()), shape[1:], node))
    else:
        _note_layer(walk, node, weight, lengths, carried)
    if carried is None:
        return Activation(shape, origin=describe(node))
    return Activation(shape, output.index(carried), lines[carried], describe(node))


def _meet(walk: Walk, node: fx.Node, factors: Sequence[Factor], letter: str, stays: bool) -> None:
    """All factors that have the letter; if only one has it and it is no part of the result, it is summed over."""
    if len(factors) == 1 and not stays:
        labels = factors[0].labels(walk, letter)
        if labels is not None:
            walk.labels.freeze(labels, f"{describe(node)}: a sum over an axis that carries channels")
    for factor in factors[1:]:
        index = factor.letters.index(letter)
        walk.meet(factors[0].labels(walk, letter), factor.value, index)
        walk.meet(factor.labels(walk, letter), factors[0].value, factors[0].letters.index(letter))


def _labels(walk: Walk, factors: Sequence[Factor], letter: str) -> Tensor | None:
    found = (factor.labels(walk, letter) for factor in factors if factor.has(letter))
    return next((labels for labels in found if labels is not None), None)


def _carried(factors: Sequence[Factor], lines: dict[str, Tensor], output: str) -> str | None:
    """Of the axes with labels the one to follow: what both factors have (heads), else the last."""
    shared = [letter for letter in lines if all(letter in factor.letters for factor in factors)]
    return (shared or sorted(lines, key=output.index))[-1] if lines else None


def _length(walk: Walk, factors: Sequence[Factor], letter: str) -> Length:
    sizes = (factor.value.shape[factor.letters.index(letter)] for factor in factors if letter in factor.letters)
    return max(sizes), _labels(walk, factors, letter)


def _note_layer(walk: Walk, node: fx.Node, weight: Factor, lengths: Mapping[str, Length], carried: str | None) -> None:
    beside = [length for letter, length in lengths.items() if letter not in weight.letters]
    out_axis = weight.letters.index(carried) if carried and carried in weight.letters else 0
    positions = prod(size for size, labels in beside if labels is None)
    over = tuple(length for length in beside if length[1] is not None)
    called(walk, node, "einsum", weight.value, out_axis, positions, over)


def _name(node: fx.Node, part: str) -> str:
    path = (module_paths(node) or [""])[-1]
    return ".".join(each for each in (path, node.name, part) if each)


@rule("scaled_dot_product_attention")
def attention(walk: Walk, node: fx.Node) -> Any:
    """softmax(q k' / sqrt(width) + mask) v: two products. Without a given scale, the width of q and k sets it."""
    given = arguments(node)
    query, key, value = (walk.value(given[name]) for name in ("query", "key", "value"))
    if query is None or key is None or value is None or any(each.parameter for each in (query, key, value)):
        return unknown(walk, node)
    if given.get("enable_gqa"):
        key, value = (_for_each_query(each, query.shape[-3]) for each in (key, value))
    last = len(query.shape) - 1
    if given.get("scale") is None:
        narrow = [each for each in (query, key) if each.dim == last]
        walk.keep(narrow, f"{describe(node)}: its scale follows from the width of a head, unless it is given `scale`")
    scores = _multiplied(walk, node, query, _transposed(key), "scores")
    if (mask := walk.value(given.get("attn_mask"))) is not None:
        scores = joined(walk, node, [scores, mask], scores.shape)
    if scores.labels is not None and scores.dim == last:
        walk.keep([scores], f"{describe(node)}: each of its outputs depends on all channels")
    return _multiplied(walk, node, scores, value, "values")


def _transposed(key: Activation) -> Activation:
    last = len(key.shape) - 1
    dim = {last: last - 1, last - 1: last}.get(key.dim, key.dim)
    return replace(key, shape=(*key.shape[:-2], key.shape[-1], key.shape[-2]), dim=dim)


def _for_each_query(shared: Activation, heads: int) -> Activation:
    """Heads of keys and values that several heads of queries share, laid down once for each of these."""
    dim = len(shared.shape) - 3
    times = heads // shared.shape[dim]
    labels = shared.labels.repeat_interleave(times) if shared.labels is not None and shared.dim == dim else None
    shape = (*shared.shape[:dim], heads, *shared.shape[dim + 1 :])
    return replace(shared, shape=shape, labels=shared.labels if labels is None else labels)
