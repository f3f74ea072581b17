"""Trace the teacher and hold the budget against what is reachable."""

from pathlib import Path
from typing import Any

from pocketpipe.budget import Budget
from pocketpipe.compression.tracing import profile_of
from pocketpipe.exporting.cost import cost_of
from pocketpipe.exporting.onnx import export_onnx
from pocketpipe.exporting.packing import packed
from pocketpipe.network import StoredNetwork
from pocketpipe.plan import MethodChoice
from pocketpipe.profile import NetworkProfile
from pocketpipe.record import StageRecord
from pocketpipe.search.feasibility import refuse_impossible
from pocketpipe.task import TaskChoice


def profile_network(
    teacher: StoredNetwork, task_choice: TaskChoice, budget: Budget, methods: list[Any], data_root: Path
) -> tuple[NetworkProfile, bytes, StageRecord]:
    """(profile, teacher's ONNX file, record). Raises UserError for a budget that the methods cannot reach."""
    task = task_choice.build(data_root)
    module = teacher.build(task)
    onnx = export_onnx(module, task.input_shape)
    traced = profile_of(module, task.input_shape).with_macs_of(cost_of(onnx, "teacher.onnx").macs)
    smaller = packed(onnx)
    profile = traced.in_file_of(len(onnx), smaller.overhead).packed_to(len(smaller.data))
    steps = [method.step() for method in MethodChoice.all_of(methods)]
    reach = refuse_impossible(profile, steps, budget)
    cost = profile.cost()
    return (
        profile,
        onnx,
        StageRecord(
            stage="profile",
            metrics={
                "macs": cost.macs,
                "parameters": cost.parameters,
                "onnx_bytes": len(onnx),
                "groups": len(profile.groups),
                "slimmable_groups": len(profile.slimmable),
            },
            facts={"reach": reach.model_dump(mode="json")},
            warnings=(
                *(line for step in steps for line in step.caveats(module, task)),
                *(
                    f"channels of {', '.join(group.members[:3])} are left whole: {group.reason}"
                    for group in profile.groups
                    if not group.slimmable and group.reason
                ),
            ),
            data="teacher.onnx",
        ),
    )
