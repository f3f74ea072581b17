"""Element by element: sums and products of tensors, activations, functions as tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from pocketpipe.integer.fixed_point import shared_shift
from pocketpipe.integer.graph import Add, IntegerTensor, Multiply
from pocketpipe.integer.lowering import ADD_BITS, Lowering, last
from pocketpipe.integer.real import Constant, Function, Real, Sum, Target
from pocketpipe.integer.rules.registry import attributes, label, rule

if TYPE_CHECKING:
    from onnx import NodeProto


@rule("Add", "Sub")
def add(lowering: Lowering, node: NodeProto) -> None:
    """Two tensors are rescaled and summed; a bias after a product joins it; with another constant it is a function."""
    sign = 1.0 if node.op_type == "Add" else -1.0
    constants = [lowering.constant(node, position) for position in range(2)]
    if any(constants):
        _with_constant(lowering, node, constants, lambda x, c: x + sign * c, lambda c, x: c + sign * x)
        return
    (left, right), image = lowering.together(node)
    shape = last(lowering.shapes[node.output[0]]) if image else lowering.shapes[node.output[0]]

    def finish(target: Target, low: int, high: int) -> None:
        one, other = lowering.tensors[left], lowering.tensors[right]
        multipliers, shift = shared_shift((one.scale / target.scale, sign * other.scale / target.scale), ADD_BITS)
        operator = Add(label(node), (left, right), target.name, multipliers, shift,
                       (one.zero_point, other.zero_point), target.zero_point, low, high)  # fmt: skip
        lowering.add(operator, IntegerTensor(shape, target.scale, target.zero_point, low, high))

    lowering.known[node.output[0]] = Sum(shape, finish, label(node), image=image)


@rule("Mul", "Div")
def multiply(lowering: Lowering, node: NodeProto) -> None:
    """Two tensors element by element; with a constant it is a function."""
    constants = [lowering.constant(node, position) for position in range(2)]
    if any(constants):
        if node.op_type == "Mul":
            _with_constant(lowering, node, constants, lambda x, c: x * c, lambda c, x: c * x)
        else:
            _with_constant(lowering, node, constants, lambda x, c: x / c, lambda c, x: c / x)
        return
    if node.op_type == "Div":
        raise lowering.refusal(node, "a quotient of two tensors has no integer form")
    (left, right), image = lowering.together(node)
    shape = last(lowering.shapes[node.output[0]]) if image else lowering.shapes[node.output[0]]

    def finish(target: Target, low: int, high: int) -> None:
        one, other = lowering.tensors[left], lowering.tensors[right]
        factor = lowering.factor(target, one.scale, other.scale, high_low=(low, high))
        operator = Multiply(label(node), (left, right), target.name, (one.zero_point, other.zero_point), factor)
        lowering.add(operator, IntegerTensor(shape, target.scale, target.zero_point, low, high))

    lowering.known[node.output[0]] = Sum(shape, finish, label(node), image=image)


def _with_constant(
    lowering: Lowering,
    node: NodeProto,
    constants: list[Constant | None],
    after: Callable[[np.ndarray, np.ndarray], np.ndarray],
    before: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> None:
    """A function of one tensor: the constant must be a single number."""
    left, right = constants
    constant = left if left is not None else right
    assert constant is not None
    value = lowering.known.get(node.input[0 if right is not None else 1])
    if isinstance(value, Sum) and value.with_bias is not None and node.op_type == "Add":
        lowering.known[node.output[0]] = value.with_bias(constant.values.reshape(-1))
        return
    if constant.values.size != 1:
        raise lowering.refusal(node, "a constant with several numbers has no integer form here; fold it into a layer")
    number = np.asarray(constant.values, np.float64).reshape(())
    position = 0 if right is not None else 1
    _then(
        lowering, node, (lambda x: after(x, number)) if right is not None else (lambda x: before(number, x)), position
    )


def _then(lowering: Lowering, node: NodeProto, function: Function, position: int = 0) -> None:
    value = lowering.known.get(node.input[position])
    if not isinstance(value, Real):
        raise lowering.refusal(node, f"its input {node.input[position]!r} is not quantized")
    lowering.known[node.output[0]] = value.then(function)


@rule("Relu", "Clip")
def clip(lowering: Lowering, node: NodeProto) -> None:
    """Cuts the range of a sum that waits; of a tensor it is a function."""
    low, high = _limits(lowering, node)
    value = lowering.known.get(node.input[0])
    if isinstance(value, Sum):
        lowering.known[node.output[0]] = value.clipped(low, high)
    else:
        _then(lowering, node, lambda x: np.clip(x, low, high))


def _limits(lowering: Lowering, node: NodeProto) -> tuple[float, float]:
    if node.op_type == "Relu":
        return 0.0, np.inf
    low, high = lowering.constant(node, 1), lowering.constant(node, 2)
    return (-np.inf if low is None else float(low.values)), (np.inf if high is None else float(high.values))


FUNCTIONS: dict[str, Function] = {
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "Tanh": np.tanh,
    "HardSwish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "HardSigmoid": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
    "Neg": np.negative,
    "Abs": np.abs,
    "Exp": np.exp,
    "Sqrt": np.sqrt,
    "Reciprocal": lambda x: 1 / x,
}


@rule(*FUNCTIONS)
def function(lowering: Lowering, node: NodeProto) -> None:
    """A table."""
    if node.op_type == "HardSigmoid":
        alpha, beta = (attributes(node).get(name, default) for name, default in (("alpha", 0.2), ("beta", 0.5)))
        _then(lowering, node, lambda x: np.clip(alpha * x + beta, 0, 1))
    else:
        _then(lowering, node, FUNCTIONS[node.op_type])


@rule("LeakyRelu")
def leaky_relu(lowering: Lowering, node: NodeProto) -> None:
    """A table."""
    alpha = attributes(node).get("alpha", 0.01)
    _then(lowering, node, lambda x: np.where(x < 0, alpha * x, x))
