"""Functions of one tensor, element by element: tables. Activations that only clip cut the range of a sum that waits."""

from __future__ import annotations

from functools import reduce
from math import erf
from typing import TYPE_CHECKING

import numpy as np

from pocketpipe.integer.lowering import Lowering
from pocketpipe.integer.onnx_file import attributes
from pocketpipe.integer.real import Constant, Function, Real, Sum
from pocketpipe.integer.rules.registry import rule

if TYPE_CHECKING:
    from onnx import NodeProto


@rule("Relu", "Clip")
def clip(lowering: Lowering, node: NodeProto) -> None:
    """Cuts the range of a sum that waits; of a tensor it is a function. Of a constant it is done at once."""
    constant = lowering.constant(node, 0)
    if constant is not None:  # maybe a weight's integers: their type stays
        cut_off = np.clip(constant.values, *_limits(lowering, node)).astype(constant.values.dtype)
        lowering.known[node.output[0]] = Constant(cut_off)
        return
    if node.input[0] in lowering.quantized:
        cut = lowering.cuts.get(node.input[0])
        if cut is None or cut.output[0] != node.output[0]:
            raise lowering.refusal(node, "cuts integers that others read as well; put it before the QuantizeLinear")
        lowering.alias(node)  # the QuantizeLinear has cut by it
        return
    _clipped(lowering, node, node.input[0], *_limits(lowering, node))


@rule("Max", "Min")
def clip_on_one_side(lowering: Lowering, node: NodeProto) -> None:
    """Of one tensor and numbers. Of constants it is done at once."""
    given = [lowering.constant(node, position) for position in range(len(node.input))]
    numbers = [each.values for each in given if each is not None]
    tensors = [name for name, each in zip(node.input, given, strict=True) if each is None]
    above = node.op_type == "Max"
    combine = np.maximum if above else np.minimum
    if not tensors:
        lowering.known[node.output[0]] = Constant(reduce(combine, numbers))
        return
    if len(tensors) > 1 or any(each.size != 1 for each in numbers):
        raise lowering.refusal(node, "only of one tensor and a number, as a Clip")
    limit = reduce(combine, (float(each.item()) for each in numbers), -np.inf if above else np.inf)
    _clipped(lowering, node, tensors[0], *((limit, np.inf) if above else (-np.inf, limit)))


def _clipped(lowering: Lowering, node: NodeProto, source: str, low: float, high: float) -> None:
    """The node's output is this value, cut to low..high."""
    value = lowering.known.get(source)
    if source == lowering.input_name:
        lowering.clipped[node.output[0]] = (low, high)
    elif isinstance(value, Sum):
        lowering.known[node.output[0]] = value.clipped(low, high)
    else:
        _then(lowering, node, lambda x: np.clip(x, low, high), source)


def _limits(lowering: Lowering, node: NodeProto) -> tuple[float, float]:
    if node.op_type == "Relu":
        return 0.0, np.inf
    given = attributes(node)  # "min" and "max" until opset 10
    low, high = bound(lowering, node, 1, given.get("min", -np.inf)), bound(lowering, node, 2, given.get("max", np.inf))
    return min(low, high), high  # ONNX cuts from below first, so that the upper one holds


def bound(lowering: Lowering, node: NodeProto, position: int, without: float) -> float:
    """A bound of a Clip; `without`, where it has none. Raises UserError for one that is no constant."""
    given = lowering.constant(node, position)
    if given is None and len(node.input) > position and node.input[position]:
        raise lowering.refusal(node, "its bounds must be constants")
    return without if given is None else float(given.values.item())


def _erf(x: np.ndarray) -> np.ndarray:
    return np.array([erf(value) for value in x])


def _softplus(x: np.ndarray) -> np.ndarray:
    result: np.ndarray = np.logaddexp(0, x)
    return result


def _to_whole(rounded: Function) -> Function:
    """As float32 has them: a number that is whole there may lie just beside it in float64."""
    return lambda x: rounded(x.astype(np.float32)).astype(np.float64)


FUNCTIONS: dict[str, Function] = {
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "Tanh": np.tanh,
    "Erf": _erf,
    "HardSwish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "Softplus": _softplus,
    "Mish": lambda x: x * np.tanh(_softplus(x)),
    "Neg": np.negative,
    "Abs": np.abs,
    "Exp": np.exp,
    "Sqrt": np.sqrt,
    "Reciprocal": lambda x: 1 / x,
    "Log": np.log,
    "Softsign": lambda x: x / (1 + np.abs(x)),
    "Sin": np.sin,
    "Cos": np.cos,
    "Sign": np.sign,
    "Floor": _to_whole(np.floor),
    "Ceil": _to_whole(np.ceil),
    "Round": _to_whole(np.rint),
}


@rule(*FUNCTIONS)
def function(lowering: Lowering, node: NodeProto) -> None:
    """A table."""
    _then(lowering, node, FUNCTIONS[node.op_type])


@rule("HardSigmoid")
def hard_sigmoid(lowering: Lowering, node: NodeProto) -> None:
    """A table."""
    alpha, beta = (attributes(node).get(name, default) for name, default in (("alpha", 0.2), ("beta", 0.5)))
    _then(lowering, node, lambda x: np.clip(alpha * x + beta, 0, 1))


@rule("LeakyRelu")
def leaky_relu(lowering: Lowering, node: NodeProto) -> None:
    """A table."""
    alpha = attributes(node).get("alpha", 0.01)
    _then(lowering, node, lambda x: np.where(x < 0, alpha * x, x))


@rule("Elu")
def elu(lowering: Lowering, node: NodeProto) -> None:
    """A table."""
    alpha = attributes(node).get("alpha", 1.0)
    _then(lowering, node, lambda x: np.where(x < 0, alpha * np.expm1(x), x))


@rule("Celu")
def celu(lowering: Lowering, node: NodeProto) -> None:
    """A table."""
    alpha = attributes(node).get("alpha", 1.0)
    _then(lowering, node, lambda x: np.where(x < 0, alpha * np.expm1(x / alpha), x))


@rule("Selu")
def selu(lowering: Lowering, node: NodeProto) -> None:
    """A table."""
    given = attributes(node)
    alpha, gamma = given.get("alpha", 1.6732632423543772), given.get("gamma", 1.0507009873554805)
    _then(lowering, node, lambda x: gamma * np.where(x < 0, alpha * np.expm1(x), x))


@rule("Gelu")
def gelu(lowering: Lowering, node: NodeProto) -> None:
    """A table, of either form (files of older opsets spell it out, which comes to the same)."""
    if attributes(node).get("approximate", b"none") == b"tanh":
        _then(lowering, node, lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))))
    else:
        _then(lowering, node, lambda x: x / 2 * (1 + _erf(x / np.sqrt(2))))


@rule("Pow")
def power(lowering: Lowering, node: NodeProto) -> None:
    """With a constant exponent: a table."""
    exponent = lowering.constant(node, 1)
    if exponent is None or exponent.values.size != 1:
        raise lowering.refusal(node, "only one constant exponent")
    number = float(exponent.values.reshape(()))
    _then(lowering, node, lambda x: x**number)


def _then(lowering: Lowering, node: NodeProto, function: Function, source: str = "") -> None:
    """`source`: the value that it is a function of, if not the first one that goes in."""
    source = source or node.input[0]
    value = lowering.known.get(source)
    if not isinstance(value, Real):
        raise lowering.refusal(node, f"its input {source!r} is not quantized")
    lowering.known[node.output[0]] = value.then(function)
