"""Finds convolutions and matrix products with what follows them elementwise, and gives each group one kernel."""

from collections import Counter
from collections.abc import Mapping
from math import inf, prod
from typing import Any

from tvm import relax
from tvm.ir import GenericConst
from tvm.relax import Call, PyExprMutator, Var, expr_functor
from tvm.tirx import PrimFunc

from pocketpipe.targets.lowering.cpu import Cpu
from pocketpipe.targets.lowering.kernel import kernel_of
from pocketpipe.targets.lowering.nest import Apply, EpilogueStep, Nest, Spread, convolution, matrix_product
from pocketpipe.targets.lowering.packing import packed
from pocketpipe.targets.lowering.parts import Kernel
from pocketpipe.targets.lowering.schedule import Schedule

Chosen = Mapping[Nest, "Schedule | PrimFunc"]
"""Kernels that are not made by rule."""

COMMUTATIVE = {"relax.add": Apply.ADD, "relax.multiply": Apply.MULTIPLY}


class Group:
    """A convolution or matrix product and the elementwise operators that consume it, in order."""

    def __init__(self, nest: Nest, call: Call, out: Var) -> None:
        self.nest = nest
        self.arguments: list[Any] = list(call.args)
        self.steps: list[EpilogueStep] = []
        self.out = out

    def take(self, call: Call, out: Var) -> bool:
        """Whether `call` fits behind the group; then it belongs to it, and the group's value is `out`."""
        found = _epilogue_step(call, self.out)
        if found is None or shape_of(out) != shape_of(self.out):
            return False
        step, operand = found
        if self.steps and step.apply is Apply.CLIP is self.steps[-1].apply and step.bounds[0] == -inf:
            below, above = self.steps.pop().bounds
            step = EpilogueStep(Apply.CLIP, bounds=(below, min(above, step.bounds[1])))
        self.steps.append(step)
        self.arguments += [] if operand is None else [operand]
        self.out = out
        return True


def nests(module: Any) -> Counter[Nest]:
    """The nests of a module, and how many groups have each."""
    bindings = [binding for block in module["main"].body.blocks for binding in block.bindings]
    groups = _groups(bindings, module["main"].body.body)
    return Counter(group.nest.with_epilogue(tuple(group.steps)) for group in groups)


def fuse(module: Any, cpu: Cpu, threads: int = 1, chosen: Chosen | None = None) -> tuple[Any, dict[str, Kernel]]:
    """(module whose `main` calls our kernels by name as external functions, the kernels, cut for so many threads).

    An external function is left alone by every pass that follows.
    """
    bindings = [binding for block in module["main"].body.blocks for binding in block.bindings]
    groups = _groups(bindings, module["main"].body.body)
    kernels: dict[str, Kernel] = {}
    by_nest: dict[Nest, str] = {}
    names: dict[Any, tuple[str, Group]] = {}
    for group in groups:
        nest = group.nest.with_epilogue(tuple(group.steps))
        if nest not in by_nest:  # layers of equal shape share one kernel
            by_nest[nest] = f"kernel{len(by_nest)}"
            kernels[by_nest[nest]] = kernel_of(nest, cpu, threads, (chosen or {}).get(nest))
        tiles = kernels[by_nest[nest]].packed
        if tiles is not None:
            group.arguments[1] = relax.const(packed(nest, tiles, group.arguments[1].value.numpy()))
        names[group.out] = (by_nest[nest], group)
    calls = {binding.value: names[binding.var] for binding in bindings if binding.var in names}
    module["main"] = _Caller(module, calls).visit_expr(module["main"])
    return relax.transform.DeadCodeElimination()(module), kernels


@expr_functor.mutator
class _Caller(PyExprMutator):  # type: ignore[misc]
    """Replaces the last call of each group by a call of its kernel; the others are dead then."""

    def __init__(self, module: Any, calls: dict[Any, tuple[str, Group]]) -> None:
        super().__init__(module)
        self.calls = calls

    def visit_call_(self, call: Call) -> Any:
        if call not in self.calls:
            return super().visit_call_(call)
        name, group = self.calls[call]
        arguments = [self.visit_expr(argument) for argument in group.arguments]
        return relax.call_dps_packed(name, relax.Tuple(arguments), group.out.ty)


def _groups(bindings: list[Any], result: Any) -> list[Group]:
    uses: Counter[Any] = Counter([result])
    consumer: dict[Any, Any] = {}
    for binding in bindings:
        for variable in _variables(binding.value):
            uses[variable] += 1
            consumer[variable] = binding
    groups: list[Group] = []
    taken: set[Any] = set()  # where two convolutions meet in one addition, it belongs to the first
    for binding in bindings:
        nest = _nest(binding.value, binding.var)
        if nest is None:
            continue
        group = Group(nest, binding.value, binding.var)
        while uses[group.out] == 1 and group.out in consumer:
            following = consumer[group.out]
            if following.var in taken or not group.take(following.value, following.var):
                break
            taken.add(following.var)
        groups.append(group)
    return groups


def _nest(value: Any, out: Var) -> Nest | None:
    """The nest of a call that our kernels can compute, else None."""
    if not isinstance(value, Call) or not _is_float_tensor(out):
        return None
    name = getattr(value.op, "name", "")
    if name == "relax.nn.conv2d" and value.attrs.data_layout == "NHWC" and shape_of(out)[0] == 1:
        attributes = value.attrs
        data, weight = (shape_of(argument) for argument in value.args)
        return convolution(
            data,
            weight,
            shape_of(out),
            strides=_integers(attributes.strides),
            padding=_integers(attributes.padding),
            dilation=_integers(attributes.dilation),
            groups=int(attributes.groups),
            constant=isinstance(value.args[1], GenericConst),
        )
    if name == "relax.matmul":
        left, right = (shape_of(argument) for argument in value.args)
        if min(len(left), len(right)) < 2:
            return None
        return matrix_product(left, right, constant=isinstance(value.args[1], GenericConst))
    return None


def _epilogue_step(value: Any, inner: Var) -> tuple[EpilogueStep, Any] | None:
    """(step, its operand) if the call is elementwise on `inner` in a way that kernels know."""
    if not isinstance(value, Call):
        return None
    name = getattr(value.op, "name", "")
    if name == "relax.nn.relu":
        return EpilogueStep(Apply.RELU), None
    if name in ("relax.maximum", "relax.minimum") and isinstance(value.args[1], GenericConst):
        bound = value.args[1].value.numpy()
        if bound.size != 1 or not value.args[0].same_as(inner):
            return None
        bounds = (bound.item(), inf) if name == "relax.maximum" else (-inf, bound.item())
        return EpilogueStep(Apply.CLIP, bounds=bounds), None
    if name not in (*COMMUTATIVE, "relax.subtract"):
        return None
    left, right = value.args
    if name == "relax.subtract" and not left.same_as(inner):
        return None
    operand = right if left.same_as(inner) else left
    spread = _spread(operand, shape_of(inner))
    if spread is None or operand.same_as(inner):
        return None
    return EpilogueStep(COMMUTATIVE.get(name, Apply.SUBTRACT), spread), operand


def _spread(operand: Any, out: tuple[int, ...]) -> Spread | None:
    shape = shape_of(operand)
    if not _is_float_tensor(operand):
        return None
    if shape == out:
        return Spread.SAME
    if prod(shape) == 1:
        return Spread.SCALAR
    return Spread.CHANNEL if prod(shape) == shape[-1] == out[-1] else None


def shape_of(expression: Any) -> tuple[int, ...]:
    """Static shape of a tensor expression."""
    return tuple(int(length) for length in expression.ty.shape)


def _is_float_tensor(expression: Any) -> bool:
    return isinstance(expression.ty, relax.TensorType) and str(expression.ty.dtype) == "float32"


def _variables(value: Any) -> list[Any]:
    found: list[Any] = []
    relax.analysis.post_order_visit(value, lambda node: found.append(node) if isinstance(node, Var) else None)
    return found


def _integers(values: Any) -> Any:
    return tuple(int(value) for value in values)
