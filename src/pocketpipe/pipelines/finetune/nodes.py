"""Fine-tune the slim network by cross-entropy and distillation."""

from pathlib import Path

from pocketpipe.network import StoredNetwork
from pocketpipe.record import StageRecord
from pocketpipe.task import Splits, TaskChoice
from pocketpipe.training.fit import fit
from pocketpipe.training.inference import metric_of
from pocketpipe.training.recipe import Recipe, TrainerSettings


def finetune_student(
    task_choice: TaskChoice,
    recipe: Recipe,
    trainer: TrainerSettings,
    seed: int,
    slim: StoredNetwork,
    teacher: StoredNetwork,
    splits: Splits,
    data_root: Path,
    workspace: Path,
) -> tuple[StoredNetwork, StageRecord]:
    """(student, record): the last epoch's weights."""
    fitted = fit(
        slim, task_choice, data_root, splits, recipe, trainer,
        seed=seed, workspace=workspace, teacher=teacher, title="finetune",
    )  # fmt: skip
    task = task_choice.build(data_root)
    score = metric_of(fitted.network.build(task), task, splits.selection)
    return fitted.network, StageRecord(
        stage="finetune",
        metrics={f"selection_{task.metric_name}": score},
        curves=fitted.curves,
        facts=fitted.facts,
        data=splits.selection.name,
    )
