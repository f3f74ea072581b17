"""Running the whole chain in a test: real commands, an output folder of its own, a small recipe."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]

QUICK = (
    "teacher.epochs=4,teacher.batch_size=128,search.trials=3,search.controls=1,search.finalists=2,"
    "search.finalist_epochs=1,finetune.epochs=4,finetune.batch_size=128,evaluate.latency_runs=20,"
    "trainer.compile=off,budget.accuracy_drop=0.5"
)
"""A recipe for tests: seconds, and an accuracy that is not asked much of."""


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    code: int
    out: str

    def stages(self) -> list[str]:
        """Stages that were made (not skipped), in order."""
        return [line.split()[0] for line in self.out.splitlines() if " done in " in line]


@dataclass
class House:
    """One output folder (its MLflow store included) and the commands that work in it."""

    output: Path
    environment: dict[str, str] = field(default_factory=dict)

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start `kedro ...` without waiting."""
        environment = os.environ | {
            "POCKETPIPE_OUTPUT": str(self.output),
            "PYTHONPATH": str(PROJECT / "tests"),
            "COLUMNS": "200",
            **self.environment,
        }
        return subprocess.Popen(
            [sys.executable, "-m", "kedro", *arguments],
            cwd=PROJECT,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def kedro(self, *arguments: str) -> Finished:
        """Run `kedro ...` to its end."""
        process = self.start(*arguments)
        out, _ = process.communicate(timeout=600)
        return Finished(process.returncode, out)

    def run(self, pipeline: str = "compress", parameters: str = "", *more: str) -> Finished:
        """Run a pipeline with the quick recipe."""
        return self.kedro("run", "--pipeline", pipeline, "--params", ",".join(filter(None, [QUICK, parameters])), *more)

    def latest(self, dataset: str) -> Path:
        """Where the newest value of a dataset lies."""
        (found,) = self.output.glob(f"*/{dataset}/latest")
        return found.resolve()


@pytest.fixture
def house(tmp_path: Path) -> House:
    """A fresh house: nothing made yet."""
    return House(tmp_path / "output")


@pytest.fixture
def another_house(tmp_path: Path) -> Callable[[str], House]:
    """More houses in one test, by name."""
    return lambda name: House(tmp_path / name)
