"""Make the network that the search starts from: the teacher, or what group-sparsity training makes of it."""

from pathlib import Path

from pocketpipe.network import StoredNetwork
from pocketpipe.record import StageRecord
from pocketpipe.task import Splits, TaskChoice
from pocketpipe.training.fit import fit
from pocketpipe.training.inference import score_of
from pocketpipe.training.recipe import SparsifyRecipe, TrainerSettings


def sparsify_network(
    task_choice: TaskChoice,
    recipe: SparsifyRecipe | None,
    trainer: TrainerSettings,
    seed: int,
    teacher: StoredNetwork,
    splits: Splits,
    data_root: Path,
    workspace: Path,
) -> tuple[StoredNetwork, StageRecord]:
    """(start, record). Without a recipe the start is the teacher itself; the teacher stays the yardstick either way."""
    if recipe is None:
        return teacher, StageRecord(
            stage="sparsify", headline="not asked for: the search cuts the teacher", data=splits.selection.name
        )
    fitted = fit(
        teacher, task_choice, data_root, splits, recipe, trainer,
        seed=seed, workspace=workspace, teacher=teacher, title="sparsify",
    )  # fmt: skip
    task = task_choice.build(data_root)
    return fitted.network, StageRecord(
        stage="sparsify",
        metrics={f"selection_{task.metric_name}": score_of(fitted.network, task, splits.selection, trainer)},
        curves=fitted.curves,
        facts=fitted.facts,
        data=splits.selection.name,
        curves_of=splits.curves_of,
    )
