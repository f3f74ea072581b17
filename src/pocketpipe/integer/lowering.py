"""From a QDQ ONNX file to the integer graph. Works on any file, ours or another exporter's.

Every tensor between operators must be quantized (QuantizeLinear, DequantizeLinear, int8, per tensor); weights int8
once their zero point is taken off, per tensor or per output channel. What an operator computes waits as a `Sum` until a
QuantizeLinear says on which grid it ends; activations on the way are cut into its range, other functions of one tensor
become tables.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from pocketpipe.errors import UserError
from pocketpipe.integer.advice import LAST, OWN_DOMAINS, WAYS_OUT, way_back
from pocketpipe.integer.fixed_point import Requantization, on_grid, requantization, shared_shift
from pocketpipe.integer.graph import Add, IntegerGraph, IntegerTensor, Operator, Reshape, Shape, Table, Transpose
from pocketpipe.integer.onnx_file import constants_of, inferred, only_ends, parsed
from pocketpipe.integer.real import Constant, Real, Sum, Target
from pocketpipe.integer.shapes import Shapes, refuse_open_shape
from pocketpipe.integer.straightening import straightened

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, ValueInfoProto

ADD_BITS = 21
"""Of the largest multiplier of a sum of tensors: two differences of 9 bits times it fit int32 beside the rounding."""

MOST_AXES = 3
"""That a transposition leaves as they are."""

T = TypeVar("T")

Known = Constant | Real | Sum


def lower(onnx_file: bytes) -> IntegerGraph:
    """The integer graph of a QDQ ONNX file with one input and one output, batch 1.

    Raises UserError that names node and operator for what has no integer form, and for shapes that are not known.
    """
    model = inferred(onnx_file)
    entry, end = only_ends(model, "has integers")
    refuse_open_shape(entry)
    lowering = Lowering(Shapes(model), _constants(model), entry.name, _type(entry), _cuts(model), _readers(model),
                        opset=_opset(model))  # fmt: skip
    for node in model.graph.node:
        lowering.lower(node)
    return straightened(lowering.graph(end.name))


def is_quantized(onnx_file: bytes) -> bool:
    """Whether the file's tensors are quantized (QDQ): whether it is to be lowered to integers at all.

    Raises UserError for what is no ONNX file.
    """
    return any(node.op_type == "QuantizeLinear" for node in parsed(onnx_file).graph.node)


@dataclass
class Lowering:
    """State of one lowering: what is known of each value of the ONNX graph, and the operators so far."""

    shapes: Mapping[str, Shape]
    known: dict[str, Known]
    input_name: str = ""
    input_type: np.dtype = field(default_factory=lambda: np.dtype(np.float32))
    """In the file: integers where the first thing done to it is DequantizeLinear."""
    cuts: Mapping[str, NodeProto] = field(default_factory=dict)
    """For outputs of QuantizeLinear the Clip that alone reads them, in integers."""
    readers: Mapping[str, Sequence[NodeProto]] = field(default_factory=dict)
    """The nodes that read a value. None of the network's output: who reads that is not known."""
    tensors: dict[str, IntegerTensor] = field(default_factory=dict)
    operators: list[Operator] = field(default_factory=list)
    quantized: dict[str, str | np.ndarray] = field(default_factory=dict)
    """For each output of a QuantizeLinear the integer tensor, or the numbers, that it is."""
    offsets: dict[str, int] = field(default_factory=dict)
    """For each of these what the file's integers have more than ours: 128 where they are unsigned."""
    entry: str = ""
    clipped: dict[str, tuple[float, float]] = field(default_factory=dict)
    """The network's input cut to a range before it is quantized: less than 8 bits."""
    moved_input: dict[str, tuple[NodeProto, ...]] = field(default_factory=dict)
    """The network's input, moved before it is quantized: the nodes that do so."""
    finished: dict[tuple[str, Target], str] = field(default_factory=dict)
    """Sums that were quantized, by name and grid: each is computed once, however many QuantizeLinear read it."""
    images: set[str] = field(default_factory=set)
    """Tensors that are stored channels last; all others in the order of the file."""
    turned: dict[str, str] = field(default_factory=dict)
    """The same tensor in the other order, where it was needed."""
    opset: int = 13
    """Of the file's operators: what an attribute means that is left out depends on it."""

    def lower(self, node: NodeProto) -> None:
        """Take one node in. Raises UserError."""
        from pocketpipe.integer.rules import MOVING, RULES

        if node.domain not in OWN_DOMAINS:
            raise self.refusal(node, f"is of the domain {node.domain!r}, which has no integer form{way_back(node)}")
        source = node.input[0] if node.input else ""
        if node.op_type in MOVING and (source == self.input_name or source in self.moved_input):
            self.moved_input[node.output[0]] = (*self.moved_input.get(source, ()), node)
            return
        rule = RULES.get(node.op_type)
        if rule is None:
            raise self.refusal(node, f"has no integer form{WAYS_OUT.get(node.op_type, '')}")
        rule(self, node)

    def graph(self, end: str) -> IntegerGraph:
        """The finished graph; `end` names the ONNX output."""
        value = self.known.get(end)
        if end in self.quantized and isinstance(self.quantized[end], str):
            tensor = str(self.quantized[end])
        elif isinstance(value, Real) and not value.functions:
            tensor = value.tensor
        else:
            raise UserError(f"the network's output is not quantized: behind what makes {end!r}, its last layer, {LAST}")
        used = {self.entry, *(operator.output for operator in self.operators)}
        end = self.turn(tensor) if tensor in self.images else tensor
        tensors = {name: tensor for name, tensor in self.tensors.items() if name in {*used, end}}
        return IntegerGraph(tensors, tuple(self.operators), self.entry, end)

    def refusal(self, node: NodeProto, why: str) -> UserError:
        """One line that names node and operator; a node without a name by what it reads as well."""
        reading = next((value for name in node.input if isinstance(value := self.known.get(name), Real | Sum)), None)
        behind = "" if node.name or reading is None else f", behind {_origin(reading)!r}"
        return UserError(f"node {node.name or node.output[0]!r} ({node.op_type}{behind}): {why}")

    def constant(self, node: NodeProto, position: int) -> Constant | None:
        """The constant at an input of a node; None if there is none."""
        if position >= len(node.input) or not node.input[position]:
            return None
        value = self.known.get(node.input[position])
        return value if isinstance(value, Constant) else None

    def plain(self, node: NodeProto, position: int = 0) -> str:
        """The integer tensor at an input of a node, in the file's order. Raises UserError if it is not on a grid."""
        tensor = self.stored(node, position)
        return self.turn(tensor) if tensor in self.images else tensor

    def image(self, node: NodeProto, position: int = 0) -> str:
        """The integer tensor at an input of a node, channels last. Raises UserError if it is no image on a grid."""
        tensor = self.stored(node, position)
        if len(self.tensors[tensor].shape) != 3:
            raise self.refusal(node, f"its input has the shape {self.tensors[tensor].shape}, not that of images")
        return tensor if tensor in self.images else self.turn(tensor)

    def together(self, node: NodeProto) -> tuple[list[str], bool]:
        """(all integer tensors that go into a node, in one order; whether that is channels last)."""
        stored = [self.stored(node, position) for position in range(len(node.input))]
        as_images = any(name in self.images for name in stored) and all(
            len(self.tensors[name].shape) == 3 for name in stored
        )
        return [name if (name in self.images) == as_images else self.turn(name) for name in stored], as_images

    def turn(self, tensor: str) -> str:
        """The same numbers in the other order: channels first and last."""
        if tensor in self.turned:
            return self.turned[tensor]
        to_last = tensor not in self.images
        name = f"{tensor}/{'last' if to_last else 'first'}"
        self.transposed(name, tensor, name, (1, 2, 0) if to_last else (2, 0, 1))
        if to_last:
            self.images.add(name)
        self.turned |= {tensor: name, name: tensor}
        return name

    def stored(self, node: NodeProto, position: int = 0) -> str:
        """The integer tensor at an input of a node, however it is stored. Raises UserError if it is not on a grid."""
        value = self.known.get(node.input[position])
        if not isinstance(value, Real):
            raise self.refusal(node, f"its input {node.input[position]!r} is not quantized")
        if not value.functions:
            return value.tensor
        raise self.refusal(node, f"its input {node.input[position]!r} is not quantized after the function before it")

    def add(self, operator: Operator, tensor: IntegerTensor) -> None:
        """Append an operator and the tensor that it makes."""
        assert operator.output not in self.tensors, f"two operators make {operator.output!r}"
        self.tensors[operator.output] = tensor
        self.operators.append(operator)

    def alias(self, node: NodeProto) -> None:
        """Let the node's output be the integers that it reads."""
        self.quantized[node.output[0]] = self.quantized[node.input[0]]
        self.offsets[node.output[0]] = self.offsets[node.input[0]]

    def ended(self, reshape: Reshape) -> None:
        """Append the reshape that ends an operator."""
        self.add(reshape, replace(self.tensors[reshape.inputs[0]], shape=reshape.shape))

    def moved(self, operator: Operator, shape: Shape) -> None:
        """Append an operator that moves numbers without changing them; the order stays that of its input."""
        source = self.tensors[operator.inputs[0]]
        tensor = IntegerTensor(shape, source.scale, source.zero_point, source.low, source.high)
        self.add(operator, tensor)
        if operator.inputs[0] in self.images and len(shape) == 3:
            self.images.add(operator.output)
        self.known[operator.output] = Real(operator.output)

    def reshaped(self, tensor: str, shape: Shape) -> str:
        """The same numbers, as they are stored, in another shape."""
        if self.tensors[tensor].shape == shape:
            return tensor
        name = f"{tensor}/{'x'.join(map(str, shape))}"
        if name not in self.tensors:
            self.add(Reshape(name, (tensor,), name, shape), replace(self.tensors[tensor], shape=shape))
        return name

    def transposed(self, label: str, tensor: str, name: str, order: tuple[int, ...]) -> None:
        """Append what brings the stored axes (from 0, without the batch) into a new order.

        If no numbers move it is a reshape. More than three axes are first made as few as can be: the C kernels move
        boxes of three.
        """
        source = self.tensors[tensor]
        made = replace(source, shape=tuple(source.shape[axis] for axis in order))
        flat, axes = merged(source.shape, order)
        if len(flat) < 2:
            self.add(Reshape(label, (tensor,), name, made.shape), made)
            return
        if len(order) <= MOST_AXES:
            flat, axes = source.shape, order
        source_name, turned = self.reshaped(tensor, flat), tuple(flat[axis] for axis in axes)
        moved = name if made.shape == turned else f"{name}/moved"
        self.add(
            Transpose(label, (source_name,), moved, (0, *(axis + 1 for axis in axes))), replace(made, shape=turned)
        )
        if moved != name:
            self.add(Reshape(f"{label}/shape", (moved,), name, made.shape), made)

    def quantize(
        self, node: NodeProto, value: Real | Sum, scale: float, zero_point: int, bits_range: tuple[int, int]
    ) -> None:
        """What a QuantizeLinear ends: an operator is finished, a table made, or the scale changed."""
        name = node.output[0]
        target = Target(name, scale, zero_point, *bits_range)
        if isinstance(value, Sum):
            same = (node.input[0], replace(target, name=""))
            if same in self.finished:
                self.quantized[name] = self.finished[same]
                return
            self.finished[same] = name
            low, high = target.within(value.low, value.high)
            value.finish(target, low, high)
            self.tensors[name] = target.tensor(value.shape, low, high)
            self.quantized[name] = name
            if value.image:
                self.images.add(name)
            return
        source = self.tensors[value.tensor]
        if value.tensor in self.images:
            self.images.add(name)
        if value.functions:
            entries = _table(source, value, target)
            reached = entries[source.low + 128 : source.high + 129]
            made = target.tensor(source.shape, int(reached.min()), int(reached.max()))
            self.add(Table(label(node), (value.tensor,), name, entries), made)
            self.quantized[name] = name
        elif (
            (source.scale, source.zero_point) == (scale, zero_point)
            and target.low <= source.low
            and source.high <= target.high
        ):
            self.quantized[name] = value.tensor
        else:
            self.add(*self.rescaled(node, label(node), value.tensor, target))
            self.quantized[name] = name

    def rescaled(self, node: NodeProto, name: str, tensor: str, target: Target) -> tuple[Add, IntegerTensor]:
        """The operator that brings a tensor onto another grid, and what it makes."""
        source = self.tensors[tensor]
        multipliers, shift = self.shared(node, source.scale / target.scale)
        made = target.tensor(source.shape, target.low, target.high)
        operator = Add(name, (tensor,), target.name, multipliers, shift, (source.zero_point,), target.zero_point,
                       target.low, target.high)  # fmt: skip
        return operator, made

    def factor(
        self, node: NodeProto, target: Target, *scales: float | np.ndarray, limits: tuple[int, int]
    ) -> Requantization:
        """The requantization to `target`, cut to `limits`, of a sum whose unit is the product of `scales`."""
        unit = np.asarray(1.0, np.float64)
        for scale in scales:
            unit = unit * np.asarray(scale, np.float64)
        try:
            return requantization(unit / target.scale, target.zero_point, *limits)
        except UserError as error:
            raise self.refusal(node, str(error)) from None

    def shared(self, node: NodeProto, *factors: float) -> tuple[tuple[int, ...], int]:
        """(multipliers, shift) of a sum of tensors times `factors`, which fits 32 bits."""
        try:
            return shared_shift(factors, ADD_BITS)
        except UserError as error:
            raise self.refusal(node, str(error)) from None


def merged(shape: Shape, order: tuple[int, ...]) -> tuple[Shape, tuple[int, ...]]:
    """(shape, order) of the same transposition with axes that stay side by side as one, and without those of length 1.

    >>> merged((2, 3, 4, 5), (1, 0, 2, 3)), merged((1, 3, 4), (1, 2, 0))
    (((2, 3, 20), (1, 0, 2)), ((12,), (0,)))
    """
    moving = [axis for axis in order if shape[axis] > 1]
    place = {axis: number for number, axis in enumerate(sorted(moving))}
    blocks: list[list[int]] = []
    for axis in moving:
        if blocks and place[axis] == place[blocks[-1][-1]] + 1:
            blocks[-1].append(axis)
        else:
            blocks.append([axis])
    before = sorted(blocks)
    return tuple(prod(shape[axis] for axis in block) for block in before), tuple(map(before.index, blocks))


def last(of_image: tuple[T, ...]) -> tuple[T, T, T]:
    """What the file says of channels, height, width, in the order in which images are stored.

    >>> last(("channels", "height", "width"))
    ('height', 'width', 'channels')
    """
    channels, height, width = of_image
    return height, width, channels


def _origin(value: Real | Sum) -> str:
    return value.tensor if isinstance(value, Real) else value.node


def label(node: NodeProto) -> str:
    """What the operator made from this node is called."""
    return node.name or str(node.output[0])


def _table(source: IntegerTensor, value: Real, target: Target) -> np.ndarray:
    """The function's value for each of the 256 integers, on the target's grid, by the one rounding rule."""
    with np.errstate(all="ignore"):  # what is no number has an integer, too
        real = value.applied((np.arange(-128, 128, dtype=np.float64) - source.zero_point) * source.scale)
    return on_grid(real, *target.grid)


def _type(value: ValueInfoProto) -> np.dtype:
    """NumPy's, of the numbers of a tensor."""
    from onnx import helper

    return np.dtype(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))


def _opset(model: ModelProto) -> int:
    """The version of ONNX's own operators."""
    return next((entry.version for entry in model.opset_import if entry.domain in OWN_DOMAINS), 1)


def _constants(model: ModelProto) -> dict[str, Known]:
    return {name: Constant(values) for name, values in constants_of(model).items()}


def _readers(model: ModelProto) -> dict[str, list[NodeProto]]:
    """The nodes that read each value but the network's output."""
    found = defaultdict(list)
    for node in model.graph.node:
        for name in node.input:
            found[name].append(node)
    for value in model.graph.output:
        found.pop(value.name, None)
    return dict(found)


def _cuts(model: ModelProto) -> dict[str, NodeProto]:
    """Each Clip that alone reads what a QuantizeLinear writes: how PyTorch says 7 bits."""
    quantized = {node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    readers = Counter(name for node in model.graph.node for name in node.input)
    clips = [node for node in model.graph.node if node.op_type == "Clip"]
    return {node.input[0]: node for node in clips if node.input[0] in quantized and readers[node.input[0]] == 1}
