"""Element by element: sums and products of tensors, and with constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from pocketpipe.integer.fixed_point import on_grid
from pocketpipe.integer.graph import Add, Multiply, Table
from pocketpipe.integer.lowering import Lowering, label, last
from pocketpipe.integer.real import Constant, Real, Sum, Target
from pocketpipe.integer.rules.affine import affine
from pocketpipe.integer.rules.registry import rule

if TYPE_CHECKING:
    from onnx import NodeProto


ARITHMETIC: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
}


@rule(*ARITHMETIC)
def arithmetic(lowering: Lowering, node: NodeProto) -> None:
    """Of two tensors; with a constant it is a function, or a number for each channel or element."""
    constants = [lowering.constant(node, position) for position in range(2)]
    values = [lowering.known.get(name) for name in node.input]
    left, right = values
    if isinstance(left, Constant) and isinstance(right, Constant):
        lowering.known[node.output[0]] = Constant(ARITHMETIC[node.op_type](left.values, right.values))
    elif any(constants):
        _with_constant(lowering, node, 0 if constants[0] is None else 1)
    elif isinstance(left, Real) and isinstance(right, Real) and left.tensor == right.tensor:
        lowering.known[node.output[0]] = _of_one_tensor(node, left, right)
    elif node.op_type in ("Add", "Sub"):
        lowering.known[node.output[0]] = _sum(lowering, node)
    elif node.op_type == "Mul":
        lowering.known[node.output[0]] = _product(lowering, node)
    else:
        raise lowering.refusal(node, "a quotient of two tensors has no integer form; F.layer_norm has")


@rule("Sum")
def sum_of_two(lowering: Lowering, node: NodeProto) -> None:
    """As Add; more of them were to be rounded in between, and the file does not say how."""
    from onnx import helper

    if len(node.input) != 2:
        raise lowering.refusal(node, "only of two tensors; write Add, with a QuantizeLinear behind each")
    arithmetic(lowering, helper.make_node("Add", node.input, node.output, name=node.name))


@rule("PRelu")
def parametric_relu(lowering: Lowering, node: NodeProto) -> None:
    """One slope is a function; several: what is above zero plus what is below times its slope, one of which is zero."""
    slopes = lowering.constant(node, 1)
    if slopes is None:
        raise lowering.refusal(node, "its slopes must be constants")
    numbers = _of_any_example(lowering, node, 0, slopes.values.astype(np.float64))
    tensor = lowering.stored(node)
    if numbers.size == 1:
        slope = float(numbers.item())
        lowering.known[node.output[0]] = Real(tensor, (lambda x: np.where(x < 0, slope * x, x),))
        return
    if len(lowering.tensors[tensor].shape) == 3:
        tensor = lowering.image(node)
    x, below = lowering.tensors[tensor], f"{node.output[0]}/below"
    integers = np.arange(-128, 128)
    lowering.add(Table(below, (tensor,), below, np.minimum(integers, x.zero_point).astype(np.int8)), x)
    if tensor in lowering.images:
        lowering.images.add(below)
    sloped = affine(lowering, node, below, numbers, np.zeros(()))

    def finish(target: Target, low: int, high: int) -> None:
        parts = tuple(Target(f"{target.name}/{side}", *target.grid) for side in ("above", "sloped"))
        above, under = parts
        entries = on_grid(np.maximum((integers - x.zero_point) * x.scale, 0), *target.grid)
        lowering.add(Table(above.name, (tensor,), above.name, entries), above.tensor(x.shape, above.low, above.high))
        sloped.finish(under, under.low, under.high)
        multipliers, shift = lowering.shared(node, 1.0, 1.0)
        operator = Add(label(node), (above.name, under.name), target.name, multipliers, shift,
                       (target.zero_point,) * 2, target.zero_point, low, high)  # fmt: skip
        lowering.add(operator, target.tensor(x.shape, low, high))

    lowering.known[node.output[0]] = Sum(x.shape, finish, label(node), image=tensor in lowering.images)


def _of_one_tensor(node: NodeProto, left: Real, right: Real) -> Real:
    """x * sigmoid(x) and the like: one function of one tensor."""
    combine = ARITHMETIC[node.op_type]
    return Real(left.tensor, (lambda x: combine(left.applied(x), right.applied(x)),))


def _aligned(lowering: Lowering, node: NodeProto) -> tuple[tuple[str, str], bool]:
    """The two tensors with as many axes each, whether they lie channels last: the last axes meet, as ONNX has it."""
    (left, right), image = lowering.together(node)
    rank = max(len(lowering.tensors[name].shape) for name in (left, right))

    def whole(name: str) -> str:
        shape = lowering.tensors[name].shape
        return lowering.reshaped(name, (1,) * (rank - len(shape)) + shape)

    return (whole(left), whole(right)), image


def _sum(lowering: Lowering, node: NodeProto) -> Sum:
    """Both rescaled onto a shared shift, or the second one less."""
    (left, right), image = _aligned(lowering, node)
    sign = 1.0 if node.op_type == "Add" else -1.0
    shape = last(lowering.shapes[node.output[0]]) if image else lowering.shapes[node.output[0]]

    def finish(target: Target, low: int, high: int) -> None:
        one, other = lowering.tensors[left], lowering.tensors[right]
        multipliers, shift = lowering.shared(node, one.scale / target.scale, sign * other.scale / target.scale)
        operator = Add(label(node), (left, right), target.name, multipliers, shift,
                       (one.zero_point, other.zero_point), target.zero_point, low, high)  # fmt: skip
        lowering.add(operator, target.tensor(shape, low, high))

    return Sum(shape, finish, label(node), image=image)


def _product(lowering: Lowering, node: NodeProto) -> Sum:
    """Element by element."""
    (left, right), image = _aligned(lowering, node)
    shape = last(lowering.shapes[node.output[0]]) if image else lowering.shapes[node.output[0]]

    def finish(target: Target, low: int, high: int) -> None:
        one, other = lowering.tensors[left], lowering.tensors[right]
        factor = lowering.factor(node, target, one.scale, other.scale, limits=(low, high))
        operator = Multiply(label(node), (left, right), target.name, (one.zero_point, other.zero_point), factor)
        lowering.add(operator, target.tensor(shape, low, high))

    return Sum(shape, finish, label(node), image=image)


def _with_constant(lowering: Lowering, node: NodeProto, position: int) -> None:
    """`position` is the tensor's. One number makes a function of it; several join a sum that waits, or are one."""
    value, constant = lowering.known.get(node.input[position]), lowering.constant(node, 1 - position)
    assert constant is not None
    numbers = constant.values.astype(np.float64)
    combine = ARITHMETIC[node.op_type]
    if isinstance(value, Real) and numbers.ndim > len(lowering.tensors[value.tensor].shape) + 1:
        raise lowering.refusal(node, f"its constant of {numbers.ndim} axes makes more of them; write it with fewer")
    if isinstance(value, Real) and numbers.size == 1:
        number = numbers.reshape(())
        before_it = (lambda x: combine(x, number)) if position == 0 else (lambda x: combine(number, x))
        lowering.known[node.output[0]] = value.then(before_it)
        return
    factors, offsets = _affine_form(lowering, node, position, numbers)
    made: Sum | None = None
    if isinstance(value, Real) and not value.functions:
        made = affine(lowering, node, value.tensor, factors, offsets)
    elif isinstance(value, Sum):
        made = value.with_affine(factors, offsets) if value.with_affine is not None else None
        if made is None and factors.size == 1 and factors > 0 and not offsets.any():
            made = value.times(float(factors.item()))
    if made is None:
        raise lowering.refusal(node, f"its input {node.input[position]!r} is not quantized")
    lowering.known[node.output[0]] = made


def _of_any_example(lowering: Lowering, node: NodeProto, position: int, numbers: np.ndarray) -> np.ndarray:
    """A constant without the batch axis; `position` is that of the tensor that it meets."""
    if numbers.ndim <= len(lowering.shapes[node.input[position]]):
        return numbers
    if len(numbers) != 1:
        raise lowering.refusal(node, "a constant for each example")
    of_one: np.ndarray = numbers[0]
    return of_one


def _affine_form(
    lowering: Lowering, node: NodeProto, position: int, numbers: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(factors, offsets) of what the node does to its tensor, without the batch axis."""
    numbers = _of_any_example(lowering, node, position, numbers)
    one, zero = np.ones(()), np.zeros(())
    if node.op_type == "Add":
        return one, numbers
    if node.op_type == "Sub":
        return (one, -numbers) if position == 0 else (-one, numbers)
    if node.op_type == "Div" and position == 1:
        raise lowering.refusal(node, "a quotient by a tensor has no integer form")
    return (numbers if node.op_type == "Mul" else 1 / numbers), zero
