"""The promote stage."""

from kedro.pipeline import Pipeline, node

from pocketpipe.pipelines.promote.nodes import promote


def create_pipeline() -> Pipeline:
    """Everything that was made -> a registered version, champion or challenger."""
    promote_ = node(
        promote,
        inputs=[
            "params:promote",
            "evaluation",
            "teacher",
            "student",
            "plan",
            "student_onnx",
            "student_packed",
            "deliveries",
            "report",
            "data_record",
            "registry",
            "promote_workspace",
        ],
        outputs=["promotion", "promote_record"],
        name="promote",
    )
    return Pipeline([promote_], namespace="promote", prefix_datasets_with_namespace=False)
