"""TIR functions -> one object file whose functions take plain pointers: no packed calls, no runtime."""

from math import prod
from pathlib import Path
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.ir import PointerType, PrimType
from tvm.tirx import PrimFunc

from pocketpipe.targets.lowering import functions
from pocketpipe.targets.lowering.cpu import Cpu

Workspaces = dict[str, tuple[int, ...]]
"""Bytes of each extra buffer that a function takes behind its other parameters."""


def write_object(kernels: dict[str, PrimFunc], cpu: Cpu, file: Path) -> Workspaces:
    """Compile `kernels` (name -> function on buffers) into `file`: `void NAME(void *, ...)`, a pointer a parameter.

    Parameters that are numbers come last.

    An object file; assembler text, if its name ends in `.s`.
    """
    functions.register()
    named = {name: kernel.with_attr("global_symbol", name) for name, kernel in kernels.items()}
    with tvm.transform.PassContext(opt_level=3):
        module = _lower(tvm.IRModule(named), cpu)
        workspaces: Workspaces = {}
        plain = {}
        for variable, function in module.functions.items():
            name = variable.name_hint
            plain[name], workspaces[name] = _on_pointers(function)
        module = tirx.transform.LowerIntrin()(tvm.IRModule(plain))
        tvm.get_global_func("target.build.llvm")(module, cpu.target).write_to_file(str(file), file.suffix[1:])
    return workspaces


def _lower(module: Any, cpu: Cpu) -> Any:
    scheduled = {name: each for name, each in module.functions.items() if isinstance(each.body, s_tir.SBlockRealize)}
    loops = {name: each for name, each in module.functions.items() if name not in scheduled}
    # Only what TVM schedules consists of blocks; our own loops have the memory that they ask for.
    module = _in_order((tirx.transform.BindTarget(cpu.target), *_OF_BLOCKS), tvm.IRModule(scheduled))
    module.update(_in_order((tirx.transform.BindTarget(cpu.target),), tvm.IRModule(loops)))
    return _in_order(_OF_LOOPS, module)


_OF_BLOCKS = (
    s_tir.transform.CanonicalizeLoop(),
    s_tir.transform.LowerInitBlock(),
    s_tir.transform.PlanAndUpdateBufferAllocationLocation(),
    s_tir.transform.ConvertBlocksToOpaque(),
    s_tir.transform.CompactBufferAllocation(),
    s_tir.transform.LowerMatchBuffer(),
    s_tir.transform.StmtSimplify(),
    s_tir.transform.LowerOpaqueBlock(),
)
_OF_LOOPS = (
    s_tir.transform.StmtSimplify(),
    tirx.transform.FlattenBuffer(),
    tirx.transform.NarrowDataType(32),
    tirx.transform.VectorizeLoop(),
    tirx.transform.UnrollLoop(),
    tirx.transform.StmtSimplify(),
    tirx.transform.RemoveNoOp(),
    s_tir.transform.RewriteUnsafeSelect(),
    tirx.transform.CommonSubexprElim(),
)


def _in_order(steps: Any, module: Any) -> Any:
    for step in steps:
        module = step(module)
    return module


def _on_pointers(function: PrimFunc) -> tuple[PrimFunc, tuple[int, ...]]:
    """(function on pointers, bytes of its workspaces): parameters and large temporaries are what the caller gives."""
    body, temporaries = _without_temporaries(function.body)
    numbers = [parameter for parameter in function.params if isinstance(parameter.ty, PrimType)]
    buffers = [*function.params[: len(function.params) - len(numbers)], *temporaries]
    pointers = [tirx.Var(f"p{i}", PointerType(buffer.ty.dtype)) for i, buffer in enumerate(buffers)]
    declared = [tirx.DeclBuffer(buffer, data=pointer) for buffer, pointer in zip(buffers, pointers, strict=True)]
    attributes = function.attrs
    plain = PrimFunc([*pointers, *numbers], tirx.SeqStmt([*declared, body]), function.ret_type, attributes)
    return plain, tuple(_bytes(buffer) for buffer in temporaries)


def _without_temporaries(body: Any) -> tuple[Any, list[Any]]:
    """Take the allocations at the top of a function (temporaries of whole tensors) out of it."""
    if not isinstance(body, tirx.SeqStmt):
        return body, []
    outside = [part for part in body.seq if isinstance(part, tirx.AllocBuffer) and part.buffer.scope() == "global"]
    rest = [part for part in body.seq if not any(part.same_as(allocation) for allocation in outside)]
    return tirx.SeqStmt(rest), [allocation.buffer for allocation in outside]


def _bytes(buffer: Any) -> int:
    bits = tvm.DataType(str(buffer.ty.dtype.dtype)).bits
    return prod(int(length) for length in buffer.ty.shape) * int(bits) // 8
