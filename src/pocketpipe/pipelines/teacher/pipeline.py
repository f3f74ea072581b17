"""The teacher stage."""

from kedro.pipeline import Pipeline, node

from pocketpipe.pipelines.teacher.nodes import make_teacher

INPUTS = [
    "params:task",
    "params:network",
    "params:teacher",
    "params:trainer",
    "params:seed",
    "splits",
    "data_root",
    "given_weights",
    "teacher_workspace",
]


def create_pipeline(*more_inputs: str) -> Pipeline:
    """Splits -> teacher; `more_inputs`: the champion, when its teacher is the start."""
    make = node(
        make_teacher, inputs=[*INPUTS, *more_inputs], outputs=["teacher", "teacher_record"], name="make_teacher"
    )
    return Pipeline([make], namespace="teacher", prefix_datasets_with_namespace=False)
