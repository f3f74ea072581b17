"""The evaluate stage."""

from kedro.pipeline import Pipeline, node

from pocketpipe.pipelines.evaluate.nodes import evaluate

INPUTS = [
    "params:task",
    "params:budget",
    "params:targets",
    "params:evaluate",
    "test_split",
    "teacher",
    "student",
    "teacher_onnx",
    "student_onnx",
    "student_packed",
    "deliveries",
    "trials",
    "search_record",
    "data_root",
]


def create_pipeline(*more_inputs: str) -> Pipeline:
    """Everything that was made -> evaluation; `more_inputs`: the champion, to be measured on the same examples."""
    evaluate_ = node(
        evaluate, inputs=[*INPUTS, *more_inputs], outputs=["evaluation", "evaluate_record"], name="evaluate"
    )
    return Pipeline([evaluate_], namespace="evaluate", prefix_datasets_with_namespace=False)
