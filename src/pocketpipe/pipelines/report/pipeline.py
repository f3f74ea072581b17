"""The report stage."""

from kedro.pipeline import Pipeline, node

from pocketpipe.pipelines.report.nodes import write_report

RECORDS = [
    f"{stage}_record"
    for stage in ("data", "teacher", "profile", "sparsify", "search", "finetune", "export", "compile", "evaluate")
]


def create_pipeline() -> Pipeline:
    """Evaluation, trials and records -> page."""
    write = node(
        write_report,
        inputs=[
            "params:task",
            "params:network",
            "params:budget",
            "params:methods",
            "params:targets",
            "params:seed",
            "evaluation",
            "trials",
            "profile",
            "plan",
            "student",
            "student_onnx",
            *RECORDS,
        ],
        outputs=["report", "report_record"],
        name="write_report",
    )
    return Pipeline([write], namespace="report", prefix_datasets_with_namespace=False)
