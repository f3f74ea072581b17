"""Running the whole chain in a test: real commands, an output folder of its own, a small recipe."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from end_to_end.forked import Forked
from pocketpipe.delivery.folder import WITH_TIMES

PROJECT = Path(__file__).parents[2]

Running = subprocess.Popen[str] | Forked

SHORT = (
    "teacher.epochs=4,teacher.warmup_epochs=1,teacher.batch_size=128,search.trials=3,search.controls=1,search.finalists=2,"
    "finalists.epochs=2,finalists.warmup_epochs=1,finetune.epochs=4,finetune.warmup_epochs=1,finetune.batch_size=128,evaluate.latency_runs=20,"
    "trainer.compile=never,budget.accuracy_drop=0.5"
)
"""Seconds, and an accuracy that is not asked much of."""

FLOAT = "network.name=lenet,methods=[channels],budget.compression=2.0,targets=- x86_64"
"""A small network without integers, which take longer to search for, and for one target. Kedro splits at commas: lists
are in lines."""

QUICK = f"{SHORT},{FLOAT}"
"""The recipe of most tests."""


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
    cold: bool = False
    """Whether commands start as users start them, imports and all."""

    def start(self, module: str, *arguments: str, program: tuple[str, ...] = ()) -> Running:
        """Start `python -m module ...` (or `python program ...`) as a process group of its own, without waiting."""
        environment = os.environ | {
            "POCKETPIPE_OUTPUT": str(self.output),
            "PYTHONPATH": str(PROJECT / "tests"),
            "COLUMNS": "200",
            **self.environment,
        }
        if not program and not self.cold:
            log, name = tempfile.mkstemp(dir=self.output.parent, prefix="said-")
            os.close(log)
            return Forked(module, arguments, environment, PROJECT, Path(name))
        return subprocess.Popen(
            [sys.executable, *(program or ("-m", module)), *arguments],
            cwd=PROJECT,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def start_run(self, pipeline: str, parameters: str = "", *more: str, program: tuple[str, ...] = ()) -> Running:
        """Start a pipeline with the quick recipe."""
        chosen = ",".join(filter(None, [QUICK, parameters]))
        return self.start("kedro", "run", "--pipeline", pipeline, "--params", chosen, *more, program=program)

    def run_default(self, parameters: str) -> Finished:
        """Run `compress` as conf/base says it, but for short trainings."""
        return _finish(self.start("kedro", "run", "--pipeline", "compress", "--params", f"{SHORT},{parameters}"))

    def run(self, pipeline: str = "compress", parameters: str = "", *more: str) -> Finished:
        """Run a pipeline with the quick recipe to its end."""
        return _finish(self.start_run(pipeline, parameters, *more))

    def pocketpipe(self, *arguments: str) -> Finished:
        """Run `pocketpipe ...` to its end."""
        return _finish(self.start("pocketpipe", *arguments))

    def latest(self, dataset: str) -> Path:
        """Where the newest value of a dataset lies."""
        (found,) = self.output.glob(f"*/{dataset}/latest")
        return found.resolve()


def with_tables(output: Path, empty_database: Path) -> Path:
    """An output folder with MLflow's tables in it."""
    output.mkdir(parents=True, exist_ok=True)
    shutil.copy(empty_database, output / "mlflow.db")
    return output


def digests(house: House) -> dict[str, str]:
    """SHA-256 of each file that a run delivers: the ONNX file, the plan, and all of the delivery folders."""
    places = [house.latest("student_onnx"), house.latest("plan"), house.latest("deliveries") / "content"]
    return {
        str(file.relative_to(place)): hashlib.sha256(file.read_bytes()).hexdigest()
        for place in places
        for file in sorted(place.rglob("*"))
        if file.is_file() and file.name not in ("provenance.json", *WITH_TIMES)
    }


def kill_when(house: House, parameters: str, reached: Callable[[], bool]) -> None:
    """Start `compress`, and kill -9 it and all that it started as soon as `reached` says so."""
    process = house.start_run("compress", parameters)
    deadline = time.monotonic() + 300
    while not reached():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "the run never came so far"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _finish(process: Running) -> Finished:
    out, _ = process.communicate(timeout=900)
    assert process.returncode is not None
    return Finished(process.returncode, out)


@pytest.fixture
def house(tmp_path: Path, empty_database: Path) -> House:
    """A fresh house: nothing made yet but MLflow's tables."""
    return House(with_tables(tmp_path / "output", empty_database))
