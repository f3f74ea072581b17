"""Sparsity before and after fine-tuning: protocols, schedules and refitting at several densities, judged on val.

    python benchmarks/sparsity.py [--task digits] [--network resnet8] [--densities 0.05] [--patterns 2:4] [--seeds 3]

A teacher is trained by the base recipe with seed 0 (unless --weights names it; relative to POCKETPIPE_DATA), made
sparse, and fine-tuned by the base recipe with every seed, unless --untrained. Prints a Markdown table: the metric on
val (or --holdout's data) before any training, and after it as mean and spread (standard deviation) over seeds.
`--workspace` keeps all trainings, so that an interrupted run goes on. The test split is not opened.
"""

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

from pocketpipe import machine
from pocketpipe.compression.sparsity import SparsityStep
from pocketpipe.compression.sparsity.patterns import parse_n_of_m
from pocketpipe.network import StoredNetwork
from pocketpipe.networks.weights import read_weights
from pocketpipe.plan import CompressionPlan
from pocketpipe.task import TaskChoice
from pocketpipe.training.fit import fit
from pocketpipe.training.inference import metric_of
from pocketpipe.training.recipe import Recipe, TrainerSettings

TEACHER = Recipe(epochs=40, batch_size=64, learning_rate=0.2, warmup_epochs=4, weight_decay=5e-4, label_smoothing=0.05)
FINETUNE = Recipe.model_validate(
    {"epochs": 25, "batch_size": 64, "learning_rate": 0.05, "warmup_epochs": 2, "weight_decay": 5e-4}
    | {"distillation": {"weight": 0.9, "temperature": 4.0}}
)
SETTINGS = TrainerSettings(threads=1, compile="never")
WAYS: dict[str, dict[str, Any]] = {
    "one_shot": {},
    "refitted": {"regression": "least_squares"},
    "gradual": {"schedule": "gradual"},
}


def main() -> None:
    """Print the table."""
    arguments = _arguments()
    choice = TaskChoice(name=arguments.task, holdout=arguments.holdout)
    task = choice.build(machine.data_root())
    splits, _ = task.load(seed=0, holdout=arguments.holdout)
    root = Path(arguments.workspace or tempfile.mkdtemp())

    def train(start: StoredNetwork, recipe: Recipe, seed: int, name: str, **more: Any) -> StoredNetwork:
        place = root / name / str(seed)
        return fit(
            start, choice, machine.data_root(), splits, recipe, SETTINGS, seed=seed, workspace=place, title=name, **more
        ).network

    teacher = StoredNetwork(arguments.network)
    if arguments.weights is None:
        teacher = train(teacher, TEACHER, 0, "teacher")
    else:
        teacher = replace(teacher, state=read_weights(machine.data_root() / arguments.weights))
    dense = teacher.build(task)
    print(f"{arguments.network}, {splits.selection.name}: dense {metric_of(dense, task, splits.selection):.4f}\n")
    print(f"| density | protocol or pattern | way | before training | after, mean of {arguments.seeds} | spread |")
    print("|---|---|---|---|---|---|")
    for density, form, chosen in _forms(arguments):
        for way, fields in WAYS.items():
            if arguments.untrained and way == "gradual":
                continue  # until it is trained the same as one_shot
            step = SparsityStep(**chosen, **fields)
            network, plan = CompressionPlan((step,)).carry_out(dense, task, splits.train)
            start = replace(teacher, plan=plan).with_weights(network)
            before = metric_of(network.eval(), task, splits.selection)
            name = f"{form}-{density}-{way}".replace(":", "-of-")
            after = [
                metric_of(train(start, FINETUNE, seed, name, teacher=teacher).build(task), task, splits.selection)
                for seed in range(0 if arguments.untrained else arguments.seeds)
            ]
            trained = f"{mean(after):.4f} | {pstdev(after):.4f}" if after else "- | -"
            print(f"| {density:g} | {form} | {way} | {before:.4f} | {trained} |", flush=True)


def _forms(arguments: argparse.Namespace) -> Iterator[tuple[float, str, dict[str, Any]]]:
    """(density, what shares it among the layers, the step's fields)."""
    for density in arguments.densities:
        for protocol in arguments.protocols:
            yield density, protocol, {"density": density, "protocol": protocol}
    for pattern in arguments.patterns:
        n, m = parse_n_of_m(pattern)
        yield n / m, pattern, {"pattern": pattern}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="digits")
    parser.add_argument("--holdout")
    parser.add_argument("--network", default="resnet8")
    parser.add_argument("--weights")
    parser.add_argument("--densities", type=float, nargs="*", default=[0.05, 0.02])
    parser.add_argument("--protocols", nargs="*", default=["uniform", "erk", "global", "lamp"])
    parser.add_argument("--patterns", nargs="*", default=[], help="n:m, as 2:4")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--untrained", action="store_true")
    parser.add_argument("--workspace")
    return parser.parse_args()


if __name__ == "__main__":
    main()
