"""Schedules for every operator that has no kernel of ours: inline, vectorize along the last axis, plain loops else."""

from contextlib import suppress
from math import prod
from typing import Any

from tvm import s_tir
from tvm.s_tir.schedule import ScheduleError
from tvm.tirx import IterVar, PrimFunc

WIDEST = 64
"""Elements of a vectorized loop at most: LLVM cuts them into registers."""


def scheduled(function: PrimFunc) -> PrimFunc:
    """The same computation with its elementwise parts inlined and its last axis vectorized where it has one."""
    schedule = s_tir.Schedule(function)
    try:
        schedule.get_sblock("root")
    except ScheduleError:  # no blocks, but loops written by hand (scattering)
        return function
    _inline(schedule)
    for block in schedule.get_child_blocks(schedule.get_sblock("root")):
        with suppress(ScheduleError):  # a schedule step is a favour: without it the plain loop stays, and is right
            _vectorize(schedule, block)
    return schedule.mod["main"]


def _inline(schedule: Any) -> None:
    for block in schedule.get_child_blocks(schedule.get_sblock("root")):
        with suppress(ScheduleError):
            schedule.compute_inline(block)


def _vectorize(schedule: Any, block: Any) -> None:
    kinds = [axis.iter_type for axis in schedule.get(block).iter_vars]
    loops = schedule.get_loops(block)
    if len(loops) != len(kinds):
        return
    extents = [int(schedule.get(loop).extent) for loop in loops]
    spatial = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == IterVar.DataPar]
    summed = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == IterVar.CommReduce]
    if not spatial or len(spatial) + len(summed) != len(loops):
        return
    if not summed and _reads_in_order(schedule.get(block)):
        spatial, extents = [schedule.fuse(*loops)], [prod(extents)]
    last = spatial[-1]
    length = int(schedule.get(last).extent)
    width = _width(length)
    if width == 1:
        return
    outer, inner = schedule.split(last, [length // width, width])
    if summed:
        schedule.reorder(*spatial[:-1], outer, *summed, inner)
        first = schedule.decompose_reduction(block, summed[0])
        schedule.vectorize(schedule.get_loops(first)[-1])
    schedule.vectorize(inner)


def _reads_in_order(block: Any) -> bool:
    """Whether every read is at the same place as the write: then all axes are one long one."""
    axes = [axis.var for axis in block.iter_vars]
    place = [region.min for region in block.writes[0].region]
    if len(block.writes) != 1 or len(place) != len(axes):
        return False
    if not all(index.same_as(axis) for index, axis in zip(place, axes, strict=True)):
        return False
    shape = block.writes[0].source.ty.shape
    return all(
        len(read.region) == len(axes)
        and all(int(a) == int(b) for a, b in zip(read.source.ty.shape, shape, strict=True))
        and all(part.min.same_as(axis) and int(part.extent) == 1 for part, axis in zip(read.region, axes, strict=True))
        for read in block.reads
    )


def _width(length: int) -> int:
    """The largest divisor of `length` that is no wider than a vectorized loop may be; 1 if that is not worth it."""
    width = max(width for width in range(1, min(length, WIDEST) + 1) if length % width == 0)
    return width if width >= min(4, length) else 1
