"""The profile stage."""

from kedro.pipeline import Pipeline, node

from pocketpipe.pipelines.profile.nodes import profile_network


def create_pipeline() -> Pipeline:
    """Teacher -> profile, the teacher's ONNX file, record."""
    profile = node(
        profile_network,
        inputs=["teacher", "params:task", "params:budget", "params:methods", "data_root"],
        outputs=["profile", "teacher_onnx", "profile_record"],
        name="profile_network",
    )
    return Pipeline([profile], namespace="profile", prefix_datasets_with_namespace=False)
