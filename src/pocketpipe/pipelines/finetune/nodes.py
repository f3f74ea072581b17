"""Fine-tune the slim network by the task's loss and distillation; or make it in stages, training in between."""

from pathlib import Path

from pocketpipe.network import StoredNetwork
from pocketpipe.plan import CompressionPlan
from pocketpipe.profile import NetworkProfile
from pocketpipe.record import StageRecord
from pocketpipe.task import Splits, TaskChoice
from pocketpipe.training.fit import fit
from pocketpipe.training.inference import score_of
from pocketpipe.training.losing import worse_than_before
from pocketpipe.training.recipe import FinetuneRecipe, TrainerSettings
from pocketpipe.training.staged import fit_in_stages


def finetune_student(
    task_choice: TaskChoice,
    recipe: FinetuneRecipe,
    trainer: TrainerSettings,
    seed: int,
    start: StoredNetwork,
    profile: NetworkProfile,
    plan: CompressionPlan,
    slim: StoredNetwork,
    teacher: StoredNetwork,
    splits: Splits,
    data_root: Path,
    workspace: Path,
) -> tuple[StoredNetwork, StageRecord]:
    """(student, record): the last epoch's weights. `slim` is what `plan` makes of `start` at once."""
    if recipe.stages is None:
        fitted = fit(
            slim, task_choice, data_root, splits, recipe.plain, trainer,
            seed=seed, workspace=workspace, teacher=teacher, title="finetune",
        )  # fmt: skip
    else:
        fitted = fit_in_stages(
            start, plan, profile, recipe.stages, task_choice, data_root, splits, recipe, trainer,
            seed=seed, workspace=workspace, teacher=teacher, title="finetune",
        )  # fmt: skip
    task = task_choice.build(data_root)
    before, score = (score_of(network, task, splits.selection, trainer) for network in (slim, fitted.network))
    return fitted.network, StageRecord(
        stage="finetune",
        metrics={f"selection_{task.metric_name}": score, f"selection_{task.metric_name}_before": before},
        curves=fitted.curves,
        facts=fitted.facts,
        warnings=worse_than_before(task, before, score, len(splits.selection), "finetune"),
        data=splits.selection.name,
        curves_of=splits.curves_of,
    )
