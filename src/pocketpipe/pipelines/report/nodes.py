"""Put all findings on one page."""

import hashlib
from typing import Any

from pocketpipe.budget import Budget
from pocketpipe.evaluation import Evaluation
from pocketpipe.lineage.fingerprint import engine_versions
from pocketpipe.network import NetworkChoice, StoredNetwork
from pocketpipe.plan import CompressionPlan, MethodChoice
from pocketpipe.profile import NetworkProfile
from pocketpipe.record import StageRecord, warnings_of
from pocketpipe.reporting.report import Findings, render
from pocketpipe.search.trial import Trial
from pocketpipe.task import TaskChoice

TOLD_VERSIONS = ("torch", "nni", "onnx", "onnxruntime", "apache-tvm")
"""Distributions whose versions the page tells."""


def write_report(
    task_choice: TaskChoice,
    network_choice: NetworkChoice,
    budget: Budget,
    methods: list[Any],
    targets: list[str],
    seed: int,
    evaluation: Evaluation,
    trials: list[Trial],
    profile: NetworkProfile,
    plan: CompressionPlan,
    student: StoredNetwork,
    student_onnx: bytes,
    *records: StageRecord,
) -> tuple[str, StageRecord]:
    """(HTML page, record)."""
    by_stage = {record.stage: record for record in records}
    search = by_stage["search"]
    findings = Findings(
        title=f"{network_choice.name} on {task_choice.name}",
        evaluation=evaluation,
        trials=trials,
        winner_index=search.facts.get("winner"),
        records=by_stage,
        dense_profile=profile,
        plan=plan,
        carried_out=student.plan,
        request={
            "task": task_choice.model_dump(mode="json"),
            "network": network_choice.model_dump(mode="json"),
            "budget": budget.model_dump(mode="json", exclude_none=True),
            "methods": [str(method) for method in MethodChoice.all_of(methods)],
            "targets": list(targets),
            "seed": seed,
        },
        facts={
            "ONNX file (sha256)": hashlib.sha256(student_onnx).hexdigest(),
            "training data (sha256)": str(by_stage["data"].facts["train_digest"]),
            "test data (sha256)": evaluation.test_digest,
            **engine_versions(TOLD_VERSIONS),
        },
        dense_score=search.metrics[f"dense_{evaluation.metric_name}"],
        selection=search.data,
    )
    page = render(findings)
    return page, StageRecord(
        stage="report",
        metrics={"html_bytes": len(page.encode())},
        warnings=warnings_of(records),
        data=evaluation.data,
    )
