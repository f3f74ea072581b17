"""Bad input is met before any work: a line for each mistake, exit code 2, nothing left behind."""

import hashlib
import io
import os
import pickle
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from kedro.framework.startup import bootstrap_project
from PIL import Image
from torch import nn

from end_to_end.conftest import with_tables
from pocketpipe.cli import cli
from pocketpipe.compression.tracing import profile_of
from pocketpipe.profile import NetworkProfile

PROJECT = Path(__file__).parents[2]


class Case:
    """One bad input: parameters, what must be said, and what has to lie on disk for it."""

    def __init__(self, parameters: str, *said: str, prepare: Callable[[Path], Any] | None = None, **environment: str):
        self.parameters, self.said, self.prepare, self.environment = parameters, said, prepare, environment


class Evil:
    """Unpickling this would run code: it makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.file}",))


def other_weights(data: Path) -> None:
    torch.save({"fc.weight": torch.zeros(3, 3)}, data / "w.pt")


def evil_weights(data: Path) -> None:
    (data / "w.pt").write_bytes(pickle.dumps(Evil(data / "executed")))


def torn_weights(data: Path) -> None:
    from safetensors.torch import save

    (data / "w.safetensors").write_bytes(save({"a": torch.zeros(100)})[:-50])


def torn_archive(data: Path) -> None:
    archive(data, {"cifar-10-batches-py/data_batch_1": b"x" * 5000})
    file = data / "cifar-10-python.tar.gz"
    file.write_bytes(file.read_bytes()[:-40])


def foreign_archive(data: Path) -> None:
    archive(data, {"cifar-10-batches-py/data_batch_1": b"something else"})


def climbing_archive(data: Path) -> str:
    archive(data, {"../escaped": b"out of the folder"})
    return "task.options.archive_md5=" + hashlib.md5((data / "cifar-10-python.tar.gz").read_bytes()).hexdigest()


def archive(data: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(data / "cifar-10-python.tar.gz", "w:gz") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


def torn_module(data: Path) -> None:
    (data / "torn_module.py").write_text("def build(:\n")


def photos(data: Path, **images: int) -> None:
    for label, count in images.items():
        (data / "photos" / label).mkdir(parents=True)
        for index in range(count):
            noise = np.random.default_rng(index).integers(0, 255, (8, 8, 3), np.uint8)
            Image.fromarray(noise).save(data / "photos" / label / f"{index}.png")


def one_unreadable(data: Path) -> None:
    photos(data, cat=20, dog=20)
    (data / "photos" / "dog" / "7.png").write_bytes(b"not an image")


def a_lonely_class(data: Path) -> None:
    photos(data, cat=20, dog=1)


def an_empty_class(data: Path) -> None:
    photos(data, cat=20, dog=0)


def a_file_as_output(data: Path) -> None:
    (data / "occupied").write_text("a file where the output folder should be")


PLAIN = "network.name=lenet,methods=[channels],targets=[x86_64]"
"""Nothing about the network takes time to check."""
FOLDER = f"task.name=image_folder,task.options.path=photos,task.options.size=8,{PLAIN}"
ARCHIVE = f"task.name=cifar10,{PLAIN}"

TINY = "network.name=own.networks:tiny"
"""For cases that are not about the network: all that can be told is told together, so it is looked at each time."""

CASES = {
    "unknown key": Case("budget.speed_up=2", "budget.speed_up: 2", "speedup"),
    "unknown section": Case("budgets.speedup=2", "budgets", "budget"),
    "misspelt network": Case("network.name=resnet9", "network.name", "'resnet9'", "did you mean 'resnet8'"),
    "misspelt task": Case("task.name=digit", "task.name", "'digit'", "did you mean 'digits'"),
    "unknown target": Case("targets=[x86]", "targets", "'x86'", "x86_64"),
    "unknown method": Case("methods=[chanels],targets=[x86_64]", "methods", "did you mean 'channels'"),
    "unknown tuner": Case("search.tuner=tpee", "search.tuner", "did you mean 'tpe'"),
    "no method": Case("methods=[],targets=[x86_64]", "methods"),
    "no target": Case("targets=[]", "targets"),
    "speed-up below one": Case("budget.speedup=0.5", "budget.speedup: 0.5", "greater than or equal to 1"),
    "accuracy drop alone": Case(
        "budget.speedup=null,budget.compression=null", "nothing bounds the cost", "speedup, compression"
    ),
    "accuracy drop above one": Case(
        "budget.accuracy_drop=1.5", "budget.accuracy_drop: 1.5", "accuracy goes from 0 to 1"
    ),
    "memory of a device": Case(
        "budget.ram_kb.fpga=1,network.name=resnet8",
        "budget.ram_kb.fpga: 1 asked",
        "reachable",
        "nearest feasible",
    ),
    "budget for a target that is not asked for": Case(
        "budget.flash_kb.cortex_m=64", "budget.flash_kb.cortex_m: nothing is delivered", "fpga"
    ),
    "impossible budget": Case("budget.speedup=400", "400x asked", "reachable", "nearest feasible budget"),
    "word for a number": Case("budget.speedup=fast", "budget.speedup: 'fast'", "number"),
    "negative seed": Case("seed=-1", "seed: -1"),
    "zero epochs": Case("teacher.epochs=0", "teacher.epochs: 0"),
    "warm-up longer than training": Case("finetune.warmup_epochs=99", "finetune", "warmup_epochs 99"),
    "unknown schedule": Case("teacher.schedule=linear", "teacher.schedule: 'linear'", "one_cycle"),
    "unknown holdout": Case("task.holdout=test_third", "task.holdout", "'test_third'", "test_half"),
    "unknown task option": Case("task.options.size=9", "task.options.size: 9 is not an option"),
    "own module missing": Case("network.name=no_such_package.nets:build", "cannot import 'no_such_package.nets'"),
    "own module with a mistake": Case(
        "network.name=torn_module:build", "importing 'torn_module' failed with SyntaxError", prepare=torn_module
    ),
    "own reference is a number": Case("network.name=own.broken_value:build", "it is a int, not a network"),
    "a name where a list belongs": Case("targets=x86_64", "targets: 'x86_64': it must be a list, as in [x86_64]"),
    "own attribute missing": Case("network.name=pocketpipe.errors:build", "has no 'build'"),
    "weights missing": Case("network.weights=w.pt", "network.weights: no file 'w.pt'", "POCKETPIPE_DATA"),
    "weights of another network": Case("network.weights=w.pt", "do not fit", "fc.weight", prepare=other_weights),
    "pickle as weights": Case("network.weights=w.pt", "w.pt", prepare=evil_weights),
    "truncated weights": Case("network.weights=w.safetensors", "w.safetensors", prepare=torn_weights),
    "no data set": Case("task.name=cifar10,network.name=resnet20", "cifar-10", "POCKETPIPE_DATA"),
    "truncated archive": Case(ARCHIVE, "cifar-10-python.tar.gz", prepare=torn_archive),
    "wrong checksum": Case(ARCHIVE, "cifar-10-python.tar.gz", "MD5", prepare=foreign_archive),
    "archive that climbs out": Case(ARCHIVE, "../escaped", prepare=climbing_archive),
    "no such folder": Case(FOLDER, "photos"),
    "one unreadable image": Case(FOLDER, "7.png", prepare=one_unreadable),
    "a class with one image": Case(FOLDER, "dog", prepare=a_lonely_class),
    "an empty class": Case(FOLDER, "dog", "0 readable images", prepare=an_empty_class),
    "a task that finds no file": Case(
        "task.name=own.tasks:from_folder", "its data cannot be read", "No such file", "shapes.npz"
    ),
    "output folder is a file": Case(
        "", "output folder", "POCKETPIPE_OUTPUT", prepare=a_file_as_output, POCKETPIPE_OUTPUT="{data}/occupied"
    ),
    "no compiler for the target": Case("targets=[own.targets:unreachable]", "targets", "no compiler"),
    "nothing can be slimmed": Case(
        "network.name=own.networks:rigid,methods=[channels],targets=[x86_64]", "reachable", "left whole", "view"
    ),
    "runs kept as plain files": Case(PLAIN, "MLFLOW_TRACKING_URI", "sqlite", MLFLOW_TRACKING_URI="file:./mlruns"),
}


TRACED: dict[tuple[str, tuple[int, ...]], NetworkProfile] = {}


@pytest.fixture(autouse=True)
def _traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most cases ask about the same tiny network, which is built and traced anew each time."""

    def once(network: nn.Module, shape: tuple[int, ...]) -> NetworkProfile:
        key = (repr(network), shape)
        if key not in TRACED:
            TRACED[key] = profile_of(network, shape)
        return TRACED[key]

    monkeypatch.setattr("pocketpipe.compression.tracing.profile_of", once)


@pytest.mark.parametrize("name", CASES)
def test_each_mistake_is_one_clear_line_before_any_work(
    name: str, tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]
    data, output = tmp_path / "data", with_tables(tmp_path / "output", empty_database)
    data.mkdir()
    more = case.prepare(data) if case.prepare is not None else None
    before = lying(tmp_path, output)
    monkeypatch.setenv("POCKETPIPE_DATA", str(data))
    monkeypatch.setenv("POCKETPIPE_OUTPUT", str(output))
    monkeypatch.syspath_prepend(str(data))
    for variable, value in case.environment.items():
        monkeypatch.setenv(variable, value.format(data=data))

    network = None if "network." in case.parameters else TINY
    code, said = run(",".join(filter(None, [case.parameters, network, more])))

    assert code == 2, said
    assert all(part in said for part in case.said), said
    assert "Traceback" not in said
    assert len(said.strip().splitlines()) == 1, said
    assert lying(tmp_path, output) == before, "left behind"


def test_no_space_in_the_output_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(small)], capture_output=True)
    if mount.returncode:
        pytest.skip("a small file system cannot be mounted here (needs root)")
    try:
        monkeypatch.setenv("POCKETPIPE_OUTPUT", str(small / "output"))
        code, said = run(TINY)
        left = [path for path in small.rglob("*") if path.is_file()]
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert code == 2, said
    assert said.startswith(f"output folder {small / 'output'}: ")
    assert "MB free, 200 MB needed; free some (docs/scheduling.md, Room), or set POCKETPIPE_OUTPUT" in said
    assert not left


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--pipeline", "compres"], "pipeline: 'compres' is unknown; known: "),
        (
            ["--pipeline", "compress", "--env", "mien"],
            "recipe (--env): 'mien' is unknown; known: base, blocks, cifar10, ",
        ),
        (["--namespaces", "data,techer"], "stage (--namespaces): 'techer' is unknown; known: compile, data, "),
        (["--to-nodes", "evaluate"], "node (--to-nodes): 'evaluate' is unknown; known: compile.compile_targets, "),
        (["--pipelines", "compress,retrain"], "--pipelines: compress and retrain make "),
        (["--to-outputs", "students"], "value (--to-outputs): 'students' is unknown; known: compile_record, "),
        (["--from-inputs", "students"], "value (--from-inputs): 'students' is unknown; known: compile_record, "),
        (["--load-versions", "student:2020"], "--load-versions: values have none; each is found by what it is made"),
        (["--tags", "quick"], "--tags: stages have none; choose them with --namespaces"),
        (["--runner", "ThreadRunner"], "--runner: ThreadRunner would run stages at once; leave it out"),
    ],
)
def test_unknown_pipeline_or_recipe(arguments: list[str], said: str) -> None:
    bootstrap_project(PROJECT)
    result = CliRunner().invoke(cli, ["run", *arguments])
    assert result.exit_code == 2
    assert said in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_recipes_are_those_of_the_configuration_that_was_named(tmp_path: Path) -> None:
    for name in ("base", "mine"):
        (tmp_path / name).mkdir()
    bootstrap_project(PROJECT)
    result = CliRunner().invoke(cli, ["run", "--env", "mien", "--conf-source", str(tmp_path)])
    assert result.exit_code == 2
    assert "recipe (--env): 'mien' is unknown; known: base, mine" in result.output


def test_a_recipe_that_is_no_yaml(tmp_path: Path) -> None:
    shutil.copytree(PROJECT / "conf", tmp_path / "conf")
    (tmp_path / "conf" / "gru" / "parameters.yml").write_text("task: {name: digits\n")
    bootstrap_project(PROJECT)
    arguments = ["run", "--pipeline", "compress", "--env", "gru", "--conf-source", str(tmp_path / "conf")]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2
    assert "gru/parameters.yml, unable to read line" in result.output
    assert len(result.output.strip().splitlines()) == 1


@pytest.mark.parametrize("name", ["paramters.yml", "recipe.yml", "nested/more.yaml"])
def test_a_recipe_of_which_a_file_would_not_be_read(name: str, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    file = tmp_path / "mine" / name
    file.parent.mkdir(parents=True)
    file.write_text("seed: 1")
    bootstrap_project(PROJECT)
    result = CliRunner().invoke(cli, ["run", "--env", "mine", "--conf-source", str(tmp_path)])
    assert result.exit_code == 2
    assert f"{name}: nobody reads it; a recipe's file begins with parameters" in result.output


def test_a_recipe_that_says_a_thing_twice(tmp_path: Path) -> None:
    shutil.copytree(PROJECT / "conf", tmp_path / "conf")
    for name in ("parameters.yml", "parameters_more.yml"):
        (tmp_path / "conf" / "gru" / name).write_text("seed: 1")
    bootstrap_project(PROJECT)
    result = CliRunner().invoke(cli, ["run", "--env", "gru", "--conf-source", str(tmp_path / "conf")])
    assert result.exit_code == 2
    assert "Duplicate keys" in result.output
    assert len(result.output.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "content",
    [
        "methods: {channels: {multiple: 4}}",  # a mapping where base has a list
        "budget: [{speedup: 2}]",
        "- seed: 1",
    ],
)
def test_a_recipe_of_another_form_than_base(content: str, tmp_path: Path) -> None:
    shutil.copytree(PROJECT / "conf", tmp_path / "conf")
    (tmp_path / "conf" / "gru" / "parameters.yml").write_text(content)
    bootstrap_project(PROJECT)
    arguments = ["run", "--pipeline", "compress", "--env", "gru", "--conf-source", str(tmp_path / "conf")]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2, result.output
    assert result.output.startswith("recipe: ")
    assert len(result.output.strip().splitlines()) == 1


@pytest.mark.parametrize("content", ["pipelines: retrain", "- run", "run: retrain", ""])
@pytest.mark.parametrize("command", [["run"], ["schedule", "--cron", "0 3 * * *"]], ids=["run", "schedule"])
def test_a_run_file_without_options_of_run(command: list[str], content: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yml").write_text(content)
    result = CliRunner().invoke(cli, [*command, "--config", str(tmp_path / "mine.yml")])
    assert result.exit_code == 2, result.output
    assert "options of `kedro run` stand under `run:`" in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_a_schedule_knows_the_recipes_that_its_run_file_names(tmp_path: Path) -> None:
    (tmp_path / "recipes" / "mine").mkdir(parents=True)
    run_file = tmp_path / "retrain.yml"
    run_file.write_text(f"run: {{pipelines: retrain, conf_source: {tmp_path / 'recipes'}}}")
    for env, said in (("mien", "recipe (--env): 'mien' is unknown; known: mine"), ("mine", "cron: 'never'")):
        result = CliRunner().invoke(cli, ["schedule", "--cron", "never", "--config", str(run_file), "--env", env])
        assert result.exit_code == 2
        assert said in result.output


def test_outside_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, ["run", "--pipeline", "compress"])
    assert result.exit_code == 2
    assert "is not inside a pocketpipe project" in result.output


def test_all_mistakes_are_listed_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POCKETPIPE_OUTPUT", str(tmp_path / "output"))
    code, said = run("budget.speedup=0.5,budget.speed_up=2,seed=-1,teacher.epochs=0,network.name=resnet9,targets=[x86]")
    assert code == 2
    assert len(said.strip().splitlines()) == 6, said
    assert "did you mean 'resnet8'" in said


def test_everything_that_is_wrong_comes_in_one_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A type, a name, an option, a missing file, a compiler, the output folder: none hides another."""
    occupied = tmp_path / "occupied"
    occupied.write_text("a file")
    monkeypatch.setenv("POCKETPIPE_OUTPUT", str(occupied))
    code, said = run(
        "seed=-1,search.tuner=tpee,task.options.size=9,network.weights=w.pt,targets=[own.targets:unreachable]"
    )
    starts = ["seed", "task.options.size", "network.weights", "search.tuner", "output folder", "targets"]
    assert code == 2
    assert [line.split(":")[0].split(" /")[0] for line in said.strip().splitlines()] == starts, said


def test_an_impossible_budget_does_not_hide_behind_a_wrong_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POCKETPIPE_OUTPUT", str(tmp_path / "output"))
    code, said = run(f"seed=-1,budget.speedup=400,{TINY}")
    assert code == 2
    first, second = said.strip().splitlines()
    assert first.startswith("seed: -1")
    assert "400x asked" in second


def test_all_unknown_names_are_listed_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POCKETPIPE_OUTPUT", str(tmp_path / "output"))
    code, said = run("network.name=resnet9,task.name=digit,targets=[x86],methods=[chanels]")
    assert code == 2
    assert len(said.strip().splitlines()) == 4, said


def lying(folder: Path, output: Path) -> list[Path]:
    """All that lies in `folder`, wherever hostile input would have put it, but for what a run may leave in `output`."""
    return sorted(path for path in folder.rglob("*") if "__pycache__" not in path.parts and not told(path, output))


def told(path: Path, output: Path) -> bool:
    """What only the data itself can show is met in the first stage: MLflow's record of it, and its lock, may stay."""
    if not path.is_relative_to(output):
        return False
    return path.is_dir() or str(path.relative_to(output)).startswith(("mlflow", "workspaces/locks"))


def run(parameters: str) -> tuple[int, str]:
    """(exit code, output) of `kedro run --pipeline compress` in this process."""
    bootstrap_project(PROJECT)
    arguments = ["run", "--pipeline", "compress", *(["--params", parameters] if parameters else [])]
    result = CliRunner().invoke(cli, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_what_kedro_refuses_is_its_own_line() -> None:
    bootstrap_project(PROJECT)
    result = CliRunner().invoke(cli, ["run", "--pipeline", "compress", "--pipelines", "retrain"])
    assert result.exit_code == 2
    assert "cannot be used together" in result.output
    assert "Traceback" not in result.output
