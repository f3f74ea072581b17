"""The export stage."""

from kedro.pipeline import Pipeline, node

from pocketpipe.pipelines.export.nodes import export_student


def create_pipeline() -> Pipeline:
    """Student -> ONNX file, and the same packed."""
    export = node(
        export_student,
        inputs=["student", "params:task", "splits", "data_root"],
        outputs=["student_onnx", "student_packed", "export_record"],
        name="export_student",
    )
    return Pipeline([export], namespace="export", prefix_datasets_with_namespace=False)
