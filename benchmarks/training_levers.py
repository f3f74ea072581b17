"""What each lever of fine-tuning is worth: the same cut, the same epochs, several seeds, judged on val.

    python benchmarks/training_levers.py [--task digits] [--network resnet8] [--speedup 2.5] [--epochs 25] [--seeds 3]

A teacher is trained (base recipe, seed 0, unless --teacher names its weights) and thinned to the speedup, every group
to the same share, by `--criterion`. Each lever fine-tunes that network with every seed. Prints a Markdown table: mean
and spread (standard deviation over seeds) of the metric on val, the mean difference to plain training with its standard
error, and seconds. `--workspace` keeps all trainings, so that an interrupted run goes on. The test split is not opened.
"""

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from pocketpipe import machine
from pocketpipe.budget import Budget
from pocketpipe.compression.channels import ChannelsStep
from pocketpipe.compression.tracing import profile_of
from pocketpipe.network import StoredNetwork
from pocketpipe.networks.weights import read_weights
from pocketpipe.plan import CompressionPlan
from pocketpipe.task import Splits, TaskChoice
from pocketpipe.training.fit import Fitted, fit
from pocketpipe.training.recipe import FinetuneRecipe, Recipe, TrainerSettings
from pocketpipe.training.staged import carried_out, fit_in_stages

LOGITS = {"weight": 0.9, "temperature": 4.0}
LEVERS: dict[str, dict[str, Any]] = {
    "none": {},
    "logits": {"distillation": LOGITS},
    "logits, weight 0.5": {"distillation": LOGITS | {"weight": 0.5}},
    "logits, mistakes corrected": {"distillation": LOGITS | {"mistakes": "corrected"}},
    "dkd": {"distillation": LOGITS | {"weight": 0.5, "outputs": {"kind": "dkd"}}},
    "attention": {"distillation": {"weight": 0.0, "features": {"kind": "attention"}}},
    "hints": {"distillation": {"weight": 0.0, "features": {"kind": "hints"}}},
    "logits + attention": {"distillation": LOGITS | {"features": {"kind": "attention"}}},
    "logits, 8 cached views": {"distillation": LOGITS | {"cached_views": 8}},
    "logits, EMA": {"distillation": LOGITS, "ema": 0.99},
    "logits, EMA, BatchNorm reestimated": {"distillation": LOGITS, "ema": 0.99, "ema_statistics": "reestimated"},
    "logits, 3 portions": {"distillation": LOGITS, "stages": {"by": "portions", "count": 3, "epochs": 4}},
    "logits, every 3 layers": {"distillation": LOGITS, "stages": {"by": "layers", "every": 3, "epochs": 2}},
    "logits, after group sparsity": {"distillation": LOGITS},
    "logits, cut by dcp": {"distillation": LOGITS},
    "logits, after auxiliary classifiers, cut by dcp": {"distillation": LOGITS},
    "logits, small images first": {"distillation": LOGITS, "progressive_resizing": {"scale": 0.75, "until": 0.6}},
    "logits, mixup": {"distillation": LOGITS, "mixing": {"kind": "mixup"}},
    "logits, CutMix": {"distillation": LOGITS, "mixing": {"kind": "cutmix"}},
    "logits, rate 0.1": {"distillation": LOGITS, "learning_rate": 0.1},
}
"""What each adds to the plain recipe."""
BEFORE: dict[str, dict[str, Any]] = {
    "group sparsity": {"group_sparsity": {"strength": 1e-3}},
    "auxiliary classifiers": {"auxiliary": {"weight": 1.0}},
}
"""What one more training before the cut has, in levers whose name says `after` it."""
SEVERAL = "logits of two teachers"
"""The lever that `--further` adds."""


@dataclass(frozen=True)
class Bench:
    """What all trainings share."""

    choice: TaskChoice
    splits: Splits
    settings: TrainerSettings
    workspace: Path

    def fit(self, start: StoredNetwork, recipe: Recipe, seed: int, name: str, **more: Any) -> Fitted:
        """One training, kept under its name."""
        place = self.workspace / name.replace(" ", "-") / str(seed)
        return fit(
            start, self.choice, machine.data_root(), self.splits, recipe, self.settings,
            seed=seed, workspace=place, title=f"{name}, seed {seed}", **more,
        )  # fmt: skip


def main() -> None:
    """Teacher, cut, then each lever with each seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="digits")
    parser.add_argument("--network", default="resnet8")
    parser.add_argument("--teacher", type=Path, help="its weights, as network.weights")
    parser.add_argument("--further", nargs=2, metavar=("NETWORK", "WEIGHTS"), help=f"adds '{SEVERAL}': this one too")
    parser.add_argument("--speedup", type=float, default=2.5)
    parser.add_argument("--criterion", default="l1")
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=0.05)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--levers", nargs="*", default=list(LEVERS), choices=list(LEVERS))
    parser.add_argument("--workspace", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        measure(chosen, chosen.workspace or Path(scratch))


def measure(chosen: argparse.Namespace, workspace: Path) -> None:
    """Print the table."""
    choice = TaskChoice(name=chosen.task)
    task = choice.build(machine.data_root())
    splits, _ = task.load(seed=0, holdout=None)
    bench = Bench(choice, splits, TrainerSettings(), workspace)
    teacher = StoredNetwork(chosen.network)
    if chosen.teacher is None:
        recipe = Recipe(epochs=40, batch_size=64, learning_rate=0.2, warmup_epochs=4, label_smoothing=0.05)
        teacher = bench.fit(teacher, recipe, 0, "teacher").network
    else:
        teacher = teacher.with_weights(replace(teacher, state=read_weights(chosen.teacher)).build(task))
    plain = {
        "epochs": chosen.epochs,
        "batch_size": chosen.batch_size,
        "learning_rate": chosen.learning_rate,
        "warmup_epochs": min(2, chosen.epochs / 4),
    }
    levers = {name: LEVERS[name] for name in chosen.levers}
    if chosen.further is not None:
        network, weights = chosen.further
        levers[SEVERAL] = {"distillation": LOGITS | {"teachers": [{"name": network, "weights": weights}]}}
    found = {
        name: run(bench, teacher, chosen, FinetuneRecipe.model_validate(plain | lever), plain, name)
        for name, lever in levers.items()
    }
    reference = found.get("none")
    print(f"| {chosen.network}, {chosen.speedup:g}x, {chosen.epochs} epochs | val {task.metric_name} | to none | s |")
    print("|---|---:|---:|---:|")
    for name, fitted in found.items():
        scores = [each.curves[f"val_{task.metric_name}"][-1] for each in fitted]
        seconds = mean(sum(each.curves["seconds"]) for each in fitted)
        away = "" if reference is None else difference(scores, reference, f"val_{task.metric_name}")
        print(f"| {name} | {mean(scores):.4f} ± {spread(scores):.4f} | {away} | {seconds:.1f} |")


def run(
    bench: Bench,
    teacher: StoredNetwork,
    chosen: argparse.Namespace,
    recipe: FinetuneRecipe,
    plain: dict[str, Any],
    name: str,
) -> list[Fitted]:
    """Fine-tune with this lever, once a seed."""
    task = bench.choice.build(machine.data_root())
    start = teacher
    for what, option in BEFORE.items():
        if f"after {what}" in name:
            before = Recipe.model_validate(plain | {"distillation": LOGITS} | option)
            start = bench.fit(teacher, before, 0, f"before the cut, {what}", teacher=teacher).network
    criterion: Any = "dcp" if name.endswith("cut by dcp") else chosen.criterion
    profile = profile_of(teacher.build(task), task.input_shape)
    step = ChannelsStep(widths={}, criterion=criterion, reconstruction=None)
    step = step.project(profile, Budget(speedup=chosen.speedup).limits(profile.cost()))
    if recipe.stages is None:
        slim = carried_out(start, step, task, bench.splits, bench.settings)
        return each_seed(chosen.seeds, lambda seed: bench.fit(slim, recipe.plain, seed, name, teacher=teacher))
    stages, plan = recipe.stages, CompressionPlan((step,))

    def staged(seed: int) -> Fitted:
        return fit_in_stages(
            start, plan, profile, stages, bench.choice, machine.data_root(), bench.splits, recipe, bench.settings,
            seed=seed, workspace=bench.workspace / name.replace(" ", "-") / str(seed), teacher=teacher, title=name,
        )  # fmt: skip

    return each_seed(chosen.seeds, staged)


def each_seed(seeds: int, train: Callable[[int], Fitted]) -> list[Fitted]:
    """One result a seed."""
    return [train(seed) for seed in range(seeds)]


def spread(scores: list[float]) -> float:
    """Standard deviation over seeds; 0 of a single one."""
    return stdev(scores) if len(scores) > 1 else 0.0


def difference(scores: list[float], reference: list[Fitted], metric: str) -> str:
    """Mean difference, seed by seed, and its standard error."""
    pairs = [own - other.curves[metric][-1] for own, other in zip(scores, reference, strict=True)]
    return f"{mean(pairs):+.4f} ± {spread(pairs) / len(pairs) ** 0.5:.4f}"


if __name__ == "__main__":
    main()
