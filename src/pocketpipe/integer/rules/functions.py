"""Functions of one tensor, element by element: tables. Activations that only clip cut the range of a sum that waits."""

from __future__ import annotations

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
    low, high = _limits(lowering, node)
    value = lowering.known.get(node.input[0])
    if node.input[0] == lowering.input_name:
        lowering.clipped[node.output[0]] = (low, high)
    elif isinstance(value, Sum):
        lowering.known[node.output[0]] = value.clipped(low, high)
    else:
        _then(lowering, node, lambda x: np.clip(x, low, high))


def _limits(lowering: Lowering, node: NodeProto) -> tuple[float, float]:
    if node.op_type == "Relu":
        return 0.0, np.inf
    given = attributes(node)  # "min" and "max" until opset 10
    return bound(lowering, node, 1, given.get("min", -np.inf)), bound(lowering, node, 2, given.get("max", np.inf))


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


def _then(lowering: Lowering, node: NodeProto, function: Function) -> None:
    value = lowering.known.get(node.input[0])
    if not isinstance(value, Real):
        raise lowering.refusal(node, f"its input {node.input[0]!r} is not quantized")
    lowering.known[node.output[0]] = value.then(function)
