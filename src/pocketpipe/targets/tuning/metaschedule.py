"""TVM's MetaSchedule on a float kernel: it restructures the loops as it finds best, measured like our own candidates.

It is given the same computation in tensor expressions, builds in this process (its own builders start others, and copy
code by pickling) and measures with our bench. Random proposals evolve without a learned cost model: that one needs
xgboost, and tens of trials teach it little. Kernels that it makes are not cut for threads.
"""

import logging
import sys
import tempfile
from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter
from types import ModuleType
from typing import Any

import numpy as np
import tvm
from tvm import s_tir, te, tirx
from tvm.tirx import PrimFunc

from pocketpipe.targets.lowering.kernel import applied
from pocketpipe.targets.lowering.nest import EpilogueStep, Nest, Spread, Window
from pocketpipe.targets.tuning.measuring import Bench

ROUNDS = 5
NEAR = 1e-3
"""Outputs may differ by this, relatively or absolutely: sums are taken in another order."""

log = logging.getLogger(__name__)
log.setLevel(logging.ERROR)  # MetaSchedule tells much, and every step of it

BenchOf = Callable[[PrimFunc], Bench]


def describable(nest: Nest) -> bool:
    """Whether `computation` can write it down: one group, and no batch of matrices."""
    return nest.outer == 1


def computation(nest: Nest) -> PrimFunc:
    """A nest of one group in tensor expressions; parameters as `lowering.kernel` takes them."""
    rows, columns, channels = nest.rows, nest.columns, nest.channels
    data = te.placeholder((rows.size, columns.size, nest.data_pixel), "float32", "data")
    weight = te.placeholder((rows.taps, columns.taps, nest.summed, nest.weight_step or channels), "float32", "weight")
    ky, kx = (te.reduce_axis((0, window.taps), name) for window, name in ((rows, "ky"), (columns, "kx")))
    padded = data if rows.always_inside and columns.always_inside else _padded(nest, data)
    before = (0, 0) if padded is data else (rows.before, columns.before)

    def at(y: Any, x: Any, channel: Any) -> Any:
        return padded[rows.position(y, ky) + before[0], columns.position(x, kx) + before[1], channel]

    if nest.depthwise:
        sums = te.compute((rows.out, columns.out, channels), lambda y, x, c: te.sum(
            at(y, x, c) * weight[ky, kx, 0, c], axis=[ky, kx]
        ), "sums")  # fmt: skip
    else:
        ci = te.reduce_axis((0, nest.summed), "ci")
        sums = te.compute((rows.out, columns.out, channels), lambda y, x, c: te.sum(
            at(y, x, ci) * weight[ky, kx, ci, c], axis=[ky, kx, ci]
        ), "sums")  # fmt: skip
    operands = [_operand(nest, step, number) for number, step in enumerate(nest.epilogue) if step.has_operand]
    out = te.compute((rows.out, columns.out, channels), lambda y, x, c: _finished(
        sums[y, x, c], nest.epilogue, operands, (y, x, c)
    ), "out")  # fmt: skip
    return te.create_prim_func([data, weight, *operands, out])


def best_trace(nest: Nest, target: Any, trials: int, bench: BenchOf, right: np.ndarray, until: float) -> str | None:
    """The best of `trials` proposals as a trace, JSON; None if none could be built, or gave what is `right`.

    `bench`: of a kernel on the workload's data; `until`: the clock (`perf_counter`) after which nothing is built.
    """
    function = computation(nest).with_attr("global_symbol", "main")
    meta_schedule = _engine()
    database = meta_schedule.database.MemoryDatabase()
    builder, runner = _in_process(meta_schedule, bench, right, until)
    task = meta_schedule.TuneContext(
        mod=function, target=target, space_generator=_space(meta_schedule), task_name="main", rand_state=1,
        search_strategy=meta_schedule.search_strategy.EvolutionarySearch(
            population_size=max(4, trials), init_measured_ratio=0.5, init_min_unmeasured=max(2, trials // 2),
            max_fail_count=5, genetic_num_iters=2,
        ),
        num_threads=1, logger=log,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="pocketpipe-") as folder:
        meta_schedule.tune.tune_tasks(
            tasks=[task.clone()], task_weights=[1.0], work_dir=folder, max_trials_global=trials,
            num_trials_per_iter=max(1, trials // 2), builder=builder, runner=runner, database=database,
            cost_model=meta_schedule.cost_model.RandomModel(),
            # Not the default ones, of which one removes the folder that a candidate was built in: ours lie in none.
            measure_callbacks=[meta_schedule.measure_callback.AddToDatabase()],
        )  # fmt: skip
    module = tvm.IRModule({"main": function})
    record = database.query_tuning_record(module, target, "main")
    return None if record is None else str(tvm.ir.save_json(record.trace.as_json()))


def replayed(nest: Nest, trace: str) -> PrimFunc:
    """The kernel that a trace makes of a nest."""
    schedule = s_tir.Schedule(tvm.IRModule({"main": computation(nest)}))
    s_tir.schedule.Trace.apply_json_to_schedule(tvm.ir.load_json(trace), schedule)
    return schedule.mod["main"]


def _engine() -> Any:
    # It imports all intrinsics of all vendors, which takes 27 s; the space below uses none.
    sys.modules.setdefault("tvm.s_tir.tensor_intrin", ModuleType("tvm.s_tir.tensor_intrin"))
    from tvm.s_tir import meta_schedule

    return meta_schedule


def _space(meta_schedule: Any) -> Any:
    """Multi-level tiling for one thread, without parallel loops."""
    rule, after, mutator = meta_schedule.schedule_rule, meta_schedule.postproc, meta_schedule.mutator
    return meta_schedule.space_generator.PostOrderApply(
        sch_rules=[
            rule.InlineConstantScalars(),
            rule.AutoInline(
                into_producer=False, into_consumer=True, inline_const_tensor=True, disallow_if_then_else=True,
                require_injective=True, require_ordered=True, disallow_op=["tirx.exp"],
            ),
            rule.MultiLevelTiling(
                structure="SSRSRS", tile_binds=None, max_innermost_factor=64, vector_load_lens=None, reuse_read=None,
                reuse_write=rule.ReuseType(req="may", levels=[1, 2], scope="global"),
            ),
            rule.ParallelizeVectorizeUnroll(
                max_jobs_per_core=-1, max_vectorize_extent=64, unroll_max_steps=[0, 16, 64], unroll_explicit=True
            ),
            rule.RandomComputeLocation(),
        ],
        postprocs=[after.DisallowDynamicLoop(), after.RewriteParallelVectorizeUnroll(), after.RewriteReductionBlock()],
        mutator_probs={
            mutator.MutateTileSize(): 0.9, mutator.MutateComputeLocation(): 0.07, mutator.MutateUnroll(): 0.03
        },
    )  # fmt: skip


def _in_process(meta_schedule: Any, bench: BenchOf, right: np.ndarray, until: float) -> tuple[Any, Any]:
    """(builder, runner): a candidate is compiled as it would be delivered, and must compute what is right."""
    from tvm.ir.utils import derived_object

    built: dict[str, Bench] = {}

    def build(mod: Any) -> Any:
        if perf_counter() > until:
            return meta_schedule.builder.BuilderResult(None, "the time is up")
        try:
            made = bench(mod["main"])
        except Exception as error:  # a proposal that TVM cannot compile is one that failed, whatever it says
            return meta_schedule.builder.BuilderResult(None, str(error)[:200])
        if not np.allclose(made.outputs()[0], right, rtol=NEAR, atol=NEAR):
            return meta_schedule.builder.BuilderResult(None, "computes something else")
        built[str(len(built))] = made
        return meta_schedule.builder.BuilderResult(str(len(built) - 1), None)

    @derived_object
    class Builder(meta_schedule.builder.PyBuilder):  # type: ignore[misc]
        def build(self, inputs: Any) -> Any:
            return [build(each.mod) for each in inputs]

    @derived_object
    class Runner(meta_schedule.runner.PyRunner):  # type: ignore[misc]
        def run(self, inputs: Any) -> Any:
            return [_future(built[str(each.artifact_path)]) for each in inputs]

    def _future(made: Bench) -> Any:
        result = meta_schedule.runner.RunnerResult([median(made.seconds(ROUNDS)[0])], None)
        return meta_schedule.runner.RunnerFuture(f_done=lambda: True, f_result=lambda: result)

    return Builder(), Runner()


def _padded(nest: Nest, data: Any) -> Any:
    rows, columns = nest.rows, nest.columns
    shape = (_reached(rows), _reached(columns), nest.data_pixel)

    def at(y: Any, x: Any, c: Any) -> Any:
        inside = tirx.all(
            y >= rows.before, y < rows.before + rows.size, x >= columns.before, x < columns.before + columns.size
        )
        value = data[y - rows.before, x - columns.before, c]
        return tirx.if_then_else(inside, value, tirx.const(0.0, "float32"))

    return te.compute(shape, at, "padded")


def _reached(window: Window) -> int:
    """Positions from the first that is read, padding included, to the last."""
    return (window.out - 1) * window.stride + (window.taps - 1) * window.dilation + 1


def _operand(nest: Nest, step: EpilogueStep, number: int) -> Any:
    shapes = {
        Spread.SAME: (nest.rows.out, nest.columns.out, nest.channels),
        Spread.CHANNEL: (nest.channels,),
        Spread.SCALAR: (1,),
    }
    return te.placeholder(shapes[step.spread], "float32", f"operand{number}")


def _finished(value: Any, epilogue: Sequence[EpilogueStep], operands: list[Any], place: tuple[Any, Any, Any]) -> Any:
    left = iter(operands)
    for step in epilogue:
        index = {Spread.SAME: place, Spread.CHANNEL: place[2:], Spread.SCALAR: (0,)}[step.spread]
        value = applied(step, value, next(left)[index] if step.has_operand else None)
    return value
