"""Champion: what is kept of a run in the registry, so that a later run can start from it and be measured against it."""

from dataclasses import dataclass
from pathlib import Path

from pocketpipe.evaluation import Evaluation
from pocketpipe.network import StoredNetwork
from pocketpipe.plan import CompressionPlan
from pocketpipe.storage import load_network, save_network

TEACHER, STUDENT, PLAN, ONNX, EVALUATION = "teacher", "student", "plan.json", "student.onnx", "evaluation.json"
REPORT, DELIVERIES = "report.html", "deliveries"


@dataclass(frozen=True)
class Yardstick:
    """What a new student is compared with on the same examples: the champion's file, and what it was measured at."""

    onnx: bytes
    evaluation: Evaluation


@dataclass(frozen=True)
class Champion:
    """A registered version with everything that is needed to go on from it."""

    teacher: StoredNetwork
    student: StoredNetwork
    plan: CompressionPlan
    onnx: bytes
    evaluation: Evaluation

    def save(self, folder: Path) -> None:
        """Write all parts into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        save_network(self.teacher, folder / TEACHER)
        save_network(self.student, folder / STUDENT)
        (folder / PLAN).write_text(self.plan.to_json(), encoding="utf-8")
        (folder / ONNX).write_bytes(self.onnx)
        (folder / EVALUATION).write_text(self.evaluation.model_dump_json(indent=2), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Champion":
        """Read what `save` wrote."""
        return cls(
            teacher=load_network(folder / TEACHER),
            student=load_network(folder / STUDENT),
            plan=CompressionPlan.from_json((folder / PLAN).read_text(encoding="utf-8")),
            onnx=(folder / ONNX).read_bytes(),
            evaluation=Evaluation.model_validate_json((folder / EVALUATION).read_bytes()),
        )
