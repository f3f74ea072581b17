"""The compile stage."""

from kedro.pipeline import Pipeline, node

from pocketpipe.pipelines.compile.nodes import compile_targets


def create_pipeline() -> Pipeline:
    """ONNX file -> delivery folders."""
    compile_ = node(
        compile_targets,
        inputs=[
            "student_onnx",
            "plan",
            "splits",
            "params:task",
            "params:network",
            "params:targets",
            "params:compile",
            "data_root",
            "tuning_records",
            "compile_workspace",
        ],
        outputs=["deliveries", "compile_record"],
        name="compile_targets",
    )
    return Pipeline([compile_], namespace="compile", prefix_datasets_with_namespace=False)
