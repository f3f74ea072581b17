"""Register the run's student and decide whether it is the champion now."""

import shutil
from pathlib import Path

from pocketpipe.champion import DELIVERIES, ONNX, REPORT, Champion
from pocketpipe.delivery.metadata import read_by
from pocketpipe.evaluation import Evaluation
from pocketpipe.exporting.transport import packed_name
from pocketpipe.network import StoredNetwork
from pocketpipe.plan import CompressionPlan
from pocketpipe.record import StageRecord
from pocketpipe.tracking.gates import GateSettings, Promotion, decide
from pocketpipe.tracking.opening import RegistryOfRun


def promote(
    gate: GateSettings,
    evaluation: Evaluation,
    teacher: StoredNetwork,
    student: StoredNetwork,
    plan: CompressionPlan,
    student_onnx: bytes,
    student_packed: bytes,
    deliveries: Path,
    report: str,
    data_record: StageRecord,
    run: RegistryOfRun,
    workspace: Path,
) -> tuple[Promotion, StageRecord]:
    """(what became of it, record). Refusals are reasons on the version, not errors."""
    package = workspace / "package"
    shutil.rmtree(package, ignore_errors=True)
    Champion(teacher, student, plan, student_onnx, evaluation).save(package)
    if len(student_packed) < len(student_onnx):
        (package / packed_name(ONNX)).write_bytes(student_packed)
    shutil.copytree(deliveries, package / DELIVERIES)
    (package / REPORT).write_text(report, encoding="utf-8")
    # The one whose scores on this test data are at hand: if another has taken its place meanwhile, `settle` objects.
    compared = evaluation.champion_scores is not None
    champion = run.beside if compared else run.registry.champion(run.model)
    tags = {"request": run.request, "train_digest": data_record.facts["train_digest"]}
    version = run.registry.register(run.model, package, evaluation, tags, run.run_id)
    if champion is None:
        decision, against = decide(evaluation, None, gate), None
    else:
        same = read_by(champion.folder / DELIVERIES) == read_by(package / DELIVERIES)
        decision, against = decide(evaluation, champion.evaluation, gate, reads_the_same=same), champion.version
    promotion = run.registry.settle(run.model, version, decision, against=against)
    shutil.rmtree(package)  # the registry has its own
    return promotion, StageRecord(
        stage="promote",
        metrics={"promoted": float(promotion.promoted)},
        facts={"outcome": str(promotion), "reasons": "\n".join(promotion.reasons)},
        warnings=() if promotion.promoted else (f"{promotion}: {promotion.reasons[0]}",),
        data=evaluation.data,
    )
