"""The finetune stage."""

from kedro.pipeline import Pipeline, node

from pocketpipe.pipelines.finetune.nodes import finetune_student


def create_pipeline() -> Pipeline:
    """Plan, the network that it makes, and teacher -> student."""
    finetune = node(
        finetune_student,
        inputs=[
            "params:task",
            "params:finetune",
            "params:trainer",
            "params:seed",
            "start",
            "profile",
            "plan",
            "slim",
            "teacher",
            "splits",
            "data_root",
            "finetune_workspace",
        ],
        outputs=["student", "finetune_record"],
        name="finetune_student",
    )
    return Pipeline([finetune], namespace="finetune", prefix_datasets_with_namespace=False)
