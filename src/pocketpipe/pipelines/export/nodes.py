"""Export the student, and pack the file for transport."""

import hashlib
from pathlib import Path

from pocketpipe.exporting.onnx import check_export, export_onnx
from pocketpipe.exporting.packing import pack
from pocketpipe.network import StoredNetwork
from pocketpipe.record import StageRecord
from pocketpipe.task import Splits, TaskChoice

CHECKED_EXAMPLES = 256


def export_student(
    student: StoredNetwork, task_choice: TaskChoice, splits: Splits, data_root: Path
) -> tuple[bytes, bytes, StageRecord]:
    """(ONNX file, its packed form, record). Raises UserError if ONNX Runtime does not give PyTorch's outputs."""
    task = task_choice.build(data_root)
    network = student.build(task)
    onnx = export_onnx(network, task.input_shape)
    inputs = task.preprocessing(splits.selection.inputs[:CHECKED_EXAMPLES])
    check = check_export(onnx, network, inputs)
    packed = pack(onnx)
    return (
        onnx,
        packed,
        StageRecord(
            stage="export",
            metrics={
                "onnx_bytes": len(onnx),
                "packed_bytes": len(packed),
                "max_difference_to_pytorch": check.difference,
                "outputs_equal_to_pytorch": check.equal_share,
                "agreement_with_pytorch": task.agreement(check.outputs, check.expected),
            },
            facts={"onnx_sha256": hashlib.sha256(onnx).hexdigest()},
            data=f"student.onnx against PyTorch on {len(inputs)} examples of {splits.selection.name}",
        ),
    )
