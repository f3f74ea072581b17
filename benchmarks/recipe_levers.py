"""What each lever of the recipe `conf/cifar10_resnet56` is worth: the recipe, shorter, and without one of them.

    POCKETPIPE_DATA=... python benchmarks/recipe_levers.py --workspace FOLDER [--epochs 8] [--only "no teachers" ...]

POCKETPIPE_DATA holds cifar-10-batches-py/ and, in pretrained/, copies of benchmarks/weights/. Our third ResNet-56 loses
whole blocks until it has 2.5 times fewer MACs, and is trained with the recipe of that environment for fewer epochs, on
fewer cached views. Each row leaves one lever out, or replaces it. Val is 5,000 of the training images, seed 0; test is
not opened. Prints a row as soon as it has it; the workspace keeps all trainings, so that an interrupted run goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean
from typing import Any

from pocketpipe import machine
from pocketpipe.budget import Budget
from pocketpipe.compression.blocks import BlocksStep
from pocketpipe.compression.channels.ranking import ranked
from pocketpipe.compression.tracing import profile_of
from pocketpipe.network import StoredNetwork
from pocketpipe.networks.weights import with_weights_of
from pocketpipe.plan import Step
from pocketpipe.task import Task, TaskChoice
from pocketpipe.training.inference import score_of
from pocketpipe.training.recipe import Recipe, TrainerSettings
from pocketpipe.training.staged import carried_out
from training_levers import Bench, spread

SPEEDUP, VIEWS = 2.5, 4
FURTHER = [{"name": name, "weights": f"pretrained/{name}.safetensors"} for name in ("resnet20", "airbench")]
TAUGHT = {"weight": 0.9, "temperature": 4.0, "mistakes": "corrected", "cached_views": VIEWS, "teachers": FURTHER}
WHOLE: dict[str, Any] = {
    "batch_size": 128,
    "learning_rate": 0.1,
    "ema": 0.999,
    "ema_statistics": "reestimated",
    "distillation": TAUGHT,
    "progressive_resizing": {"scale": 0.75, "until": 0.6},
}
WITHOUT: dict[str, dict[str, Any]] = {
    "all of it": {},
    "no teachers": {"distillation": None},
    "its own teacher alone": {"distillation": TAUGHT | {"teachers": []}},
    "mistakes kept": {"distillation": TAUGHT | {"mistakes": "kept"}},
    "a rate of 0.01": {"learning_rate": 0.01},
    "no averaged weights": {"ema": None, "ema_statistics": "averaged"},
    "whole images from the start": {"progressive_resizing": None},
    "channels instead of blocks": {},
    "half of the views": {"distillation": TAUGHT | {"cached_views": VIEWS // 2}},
    "no hidden square": {},
}
"""What each row changes in the recipe; two change something else."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=list(WITHOUT), choices=list(WITHOUT))
    asked = parser.parse_args()
    print(f"| ResNet-56, {SPEEDUP:g}x, {asked.epochs} epochs | before | val accuracy | s |\n|---|---:|---:|---:|")
    for name in asked.only:
        print(row(name, asked), flush=True)


def row(name: str, asked: argparse.Namespace) -> str:
    """Cut and train, once a seed."""
    choice = TaskChoice(name="cifar10", options={} if name == "no hidden square" else {"cutout": 8})
    task = choice.build(machine.data_root())
    splits, _ = task.load(seed=0, holdout=None)
    bench = Bench(choice, splits, TrainerSettings(), asked.workspace)
    weights = machine.data_root() / "pretrained" / "resnet56_third.safetensors"
    teacher = with_weights_of(weights, StoredNetwork("resnet56"), task)
    step = cut(teacher, task, bench, by_channels=name == "channels instead of blocks")
    slim = carried_out(teacher, step, task, splits, bench.settings)
    recipe = Recipe.model_validate({"epochs": asked.epochs, **WHOLE, **WITHOUT[name]})
    trained = [
        bench.fit(slim, recipe, seed, name, teacher=teacher, shared=asked.workspace) for seed in range(asked.seeds)
    ]
    scores = [each.curves[f"val_{task.metric_name}"][-1] for each in trained]
    seconds = mean(sum(each.curves["seconds"]) for each in trained)
    before = score_of(slim, task, splits.val, bench.settings)
    return f"| {name} | {before:.4f} | {mean(scores):.4f} ± {spread(scores):.4f} | {seconds:.0f} |"


def cut(teacher: StoredNetwork, task: Task, bench: Bench, *, by_channels: bool) -> Step:
    """Whole blocks by their loss, or channels in one order by Taylor for each MAC, with least squares behind."""
    network = teacher.build(task)
    profile = profile_of(network, task.input_shape)
    limits = Budget(speedup=SPEEDUP).limits(profile.cost())
    if not by_channels:
        return BlocksStep(reconstruction=None).project(profile, limits)
    groups = {group.name: group.channels for group in profile.slimmable}
    return ranked(
        network, task, bench.splits.train, profile, limits, "taylor", groups=groups, minimum=1, multiple=1, seed=0
    )


if __name__ == "__main__":
    main()
