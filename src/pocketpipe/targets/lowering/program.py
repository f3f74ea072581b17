"""ONNX file -> Program: a list of kernel calls on places in memory, and the object file that holds the kernels."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.ir import GenericConst
from tvm.relax import Call, ExternFunc, Tuple, TupleGetItem, Var
from tvm.tirx import PrimFunc

from pocketpipe.errors import UserError
from pocketpipe.targets.lowering.cpu import Cpu
from pocketpipe.targets.lowering.fusing import Chosen, fuse, shape_of
from pocketpipe.targets.lowering.generic import scheduled
from pocketpipe.targets.lowering.memory import ALIGNMENT, Blob, Interval, aligned, plan
from pocketpipe.targets.lowering.objects import write_object
from pocketpipe.targets.lowering.parts import Kernel
from pocketpipe.targets.lowering.reading import REFUSALS, read_onnx


@dataclass(frozen=True)
class Place:
    """Where a kernel's argument lies: `region` is input, output, weights or arena; `offset` in bytes."""

    region: str
    offset: int
    step: int = 0
    """Bytes from where it lies for one part of a kernel to where it lies for the next."""


@dataclass(frozen=True)
class KernelCall:
    """One call of a kernel."""

    kernel: str
    arguments: tuple[Place, ...]
    units: int = 0
    """Of a kernel that is cut, how many units its work has; else 0."""
    parts: int = 1
    """Into how many calls it is cut."""


@dataclass(frozen=True)
class Program:
    """All that the C source of a model needs."""

    calls: tuple[KernelCall, ...]
    weights: bytes
    arena_bytes: int
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    """Both with their batch axis of 1; float32."""


def compile_floats(onnx: bytes, cpu: Cpu, object_file: Path, threads: int = 1, chosen: Chosen | None = None) -> Program:
    """Compile `onnx` for `cpu`: kernels into `object_file`, the rest into a Program. Raises UserError."""
    module, kernels, calls = _lowered(onnx, cpu, threads, chosen)
    used = {name for name, _, _ in calls.calls}
    for variable, function in module.functions.items():
        if isinstance(function, PrimFunc) and variable.name_hint in used:
            kernels[variable.name_hint] = Kernel(scheduled(function))
    # Numbered, so that names are short, valid in C, and say nothing of the network.
    renamed = {name: f"pocketpipe_kernel{index}" for index, name in enumerate(sorted(used))}
    functions = {renamed[name]: kernels[name].function for name in sorted(used)}
    try:
        workspaces = write_object(functions, cpu, object_file)
    except REFUSALS as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"the ONNX file cannot be compiled: TVM says: {reason}") from error
    made = {name: _Made(renamed[name], kernels[name], workspaces[renamed[name]], threads) for name in used}
    return _place(calls, made)


def check_floats(onnx: bytes, cpu: Cpu) -> None:
    """Raise UserError for what `compile_floats` has no kernel for; writes none."""
    _lowered(onnx, cpu, 1, None)


def _lowered(onnx: bytes, cpu: Cpu, threads: int, chosen: Chosen | None) -> tuple[Any, dict[str, Kernel], "_Calls"]:
    """(the module with its loops, our kernels, the calls of both)."""
    module, kernels = fuse(read_onnx(onnx), cpu, threads, chosen)
    with cpu.target, tvm.transform.PassContext(opt_level=3):
        for step in (
            relax.transform.LegalizeOps(),
            relax.transform.AnnotateTIROpPattern(),
            relax.transform.FoldConstant(),
            relax.transform.FuseOps(),
            relax.transform.FuseTIR(),
            relax.transform.RewriteDataflowReshape(),
            relax.transform.CanonicalizeBindings(),
            relax.transform.DeadCodeElimination(),
        ):
            module = step(module)
    return module, kernels, _Calls(module["main"])


@dataclass(frozen=True)
class _Made:
    """A kernel as it is called."""

    name: str
    kernel: Kernel
    workspaces: tuple[int, ...]
    threads: int

    @property
    def parts(self) -> int:
        return self.kernel.parts(self.threads)


class _Calls:
    """The bindings of `main`, read as kernel calls on named values. An alias is another name of the same value."""

    def __init__(self, main: Any) -> None:
        self.calls: list[tuple[str, list[str], list[str]]] = []
        """(kernel, names of what it reads, names of what it writes)"""
        self.sizes: dict[str, int] = {}
        self.constants: dict[str, np.ndarray] = {}
        self._names: dict[Any, list[str]] = {}
        (parameter,) = main.params
        self.input = self._new(parameter.ty)
        self.input_shape = shape_of(parameter)
        self._names[parameter] = [self.input]
        for block in main.body.blocks:
            for binding in block.bindings:
                self._names[binding.var] = self._value(binding.value)
        (self.output,) = self._read(main.body.body)
        if self.output == self.input or self.output in self.constants:
            what = "its input" if self.output == self.input else "a constant, whatever the input"
            raise UserError(f"the network computes nothing: its output is {what}")
        self.output_shape = shape_of(main.body.body)

    def _value(self, value: Any) -> list[str]:
        if not isinstance(value, Call):
            return self._read(value)
        operator = getattr(value.op, "name", "")
        if operator in ("relax.reshape", "relax.memory.view"):
            return self._read(value.args[0])
        if operator not in ("relax.call_tir", "relax.call_dps_packed"):
            raise UserError(f"operator {operator} has no kernel; targets in C (cortex_m, armv7, fpga) may know it")
        callee, arguments = value.args[:2]
        name = str(callee.global_symbol) if isinstance(callee, ExternFunc) else callee.name_hint
        results = value.ty.fields if isinstance(value.ty, relax.TupleType) else [value.ty]
        written = [self._new(kind) for kind in results]
        self.calls.append((name, self._read(arguments), written))
        return written

    def _read(self, value: Any) -> list[str]:
        if isinstance(value, Var):
            return self._names[value]
        if isinstance(value, Tuple):
            return [name for field in value.fields for name in self._read(field)]
        if isinstance(value, TupleGetItem):
            return [self._read(value.tuple_value)[value.index]]
        if isinstance(value, GenericConst):
            name = f"constant{len(self.constants)}"
            self.constants[name] = value.value.numpy()
            return [name]
        raise UserError(f"a {type(value).__name__} in the network cannot be placed in memory")

    def _new(self, kind: Any) -> str:
        name = f"value{len(self.sizes)}"
        bits = tvm.DataType(str(kind.dtype)).bits
        self.sizes[name] = prod(int(length) for length in kind.shape) * max(bits // 8, 1)
        return name


def _place(calls: _Calls, made: dict[str, _Made]) -> Program:
    weights = Blob()
    places = {name: Place("weights", weights.place(array)) for name, array in calls.constants.items()}
    offsets, arena = plan(list(_intervals(calls, made)))
    places |= {name: Place("arena", offset) for name, offset in offsets.items()}
    places[calls.input] = Place("input", 0)
    places[calls.output] = Place("output", 0)
    placed = []
    for number, (name, read, written) in enumerate(calls.calls):
        kernel = made[name]
        extra = [
            Place("arena", offsets[f"workspace{number}_{i}"], aligned(size) if kernel.parts > 1 else 0)
            for i, size in enumerate(kernel.workspaces)
        ]
        arguments = (*(places[value] for value in (*read, *written)), *extra)
        placed.append(KernelCall(kernel.name, arguments, kernel.kernel.units, kernel.parts))
    return Program(tuple(placed), bytes(weights.content), max(arena, ALIGNMENT), calls.input_shape, calls.output_shape)


def _intervals(calls: _Calls, made: dict[str, _Made]) -> Iterator[Interval]:
    """Lifetime of each value in the arena: from the call that writes it to the last that reads it."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for step, (name, read, written) in enumerate(calls.calls):
        first.update(dict.fromkeys(written, step))
        last.update(dict.fromkeys((*read, *written), step))
        for i, size in enumerate(made[name].workspaces):
            yield Interval(f"workspace{step}_{i}", made[name].parts * aligned(size), step, step)
    for name in first:
        if name != calls.output:
            yield Interval(name, calls.sizes[name], first[name], last[name])
