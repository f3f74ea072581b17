"""Which stages a change makes stale: computed on the registered pipeline, nothing is run."""

import json
import os
import shutil
import subprocess
import sys
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from kedro.config import OmegaConfigLoader
from kedro.io import DataCatalog

from pocketpipe import settings
from pocketpipe.config import Config, read_config
from pocketpipe.datasets.sources import DataRoot
from pocketpipe.delivery.model import cpu_flags
from pocketpipe.freshness import ENGINES, hand_over, ingredients, request_fingerprint
from pocketpipe.lineage.source import read_source
from pocketpipe.pipeline_registry import register_pipelines
from pocketpipe.targets.base import TARGETS
from pocketpipe.targets.x86_64 import LEVELS

PROJECT = Path(__file__).parents[1]
ALL = [
    "data", "teacher", "profile", "sparsify", "search", "finetune",
    "export", "compile", "evaluate", "report", "promote",
]  # fmt: skip
SPARSIFY = {"epochs": 2, "batch_size": 64, "learning_rate": 0.01, "group_sparsity": {"strength": 1e-4}}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POCKETPIPE_OUTPUT", str(tmp_path))


def loader() -> OmegaConfigLoader:
    return OmegaConfigLoader(str(PROJECT / "conf"), **settings.CONFIG_LOADER_ARGS)


def fingerprints(**changes: Any) -> dict[str, str]:
    """Fingerprint by stage when single parameters (section__key=value) are changed."""
    parameters = loader()["parameters"]
    for path, value in changes.items():
        section, _, key = path.partition("__")
        if key:
            parameters[section][key] = value
        else:
            parameters[section] = value
    return by_stage(read_config(parameters))


@cache
def unchanged() -> dict[str, str]:
    return fingerprints()


def by_stage(config: Config, pipeline: str = "compress") -> dict[str, str]:
    catalog = DataCatalog.from_config(loader()["catalog"])
    found = ingredients(register_pipelines()[pipeline], catalog, config)
    return {entry.stage: entry.fingerprint for entry in found.values()}


@pytest.mark.parametrize(
    ("change", "stale"),
    [
        ({}, []),
        ({"seed": 1}, ALL),
        ({"teacher__epochs": 41}, ALL[1:]),
        ({"budget": {"speedup": 2.0}}, ["profile", *ALL[4:]]),
        ({"sparsify": SPARSIFY}, ALL[3:]),
        ({"search__trials": 25}, ALL[4:]),
        ({"finalists__epochs": 4}, ALL[4:]),
        ({"finetune__learning_rate": 0.04}, ALL[5:]),
        ({"compile__tune": {"trials": 2}}, ALL[7:]),
        ({"targets": ["x86_64"]}, ALL[7:]),
        ({"evaluate__latency_runs": 50}, ALL[8:]),
        ({"budget__accuracy_drop": 0.02}, ALL[8:]),
        ({"budget__minimum_metric": 0.5}, ALL[8:]),
        ({"budget__latency_ms": {"x86_64": 5.0}}, ALL[8:]),
        ({"promote__margin": 0.1}, ALL[10:]),
    ],
)
def test_a_change_makes_stale_what_depends_on_it_and_nothing_else(change: dict[str, Any], stale: list[str]) -> None:
    before, after = unchanged(), fingerprints(**change)
    assert [stage for stage in ALL if before[stage] != after[stage]] == stale


def test_a_champions_plan_is_judged_anew_by_what_is_asked_of_it(tmp_path: Path, empty_database: Path) -> None:
    """It is kept as long as its metric is good enough: in `retrain` the search depends on the whole budget."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    parameters = loader()["parameters"]
    before = by_stage(read_config(parameters), "retrain")
    parameters["budget"]["accuracy_drop"] = 0.5
    after = by_stage(read_config(parameters), "retrain")
    assert [stage for stage in ALL if before[stage] != after[stage]] == ALL[4:]


def test_of_an_instance_the_module_that_makes_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "boards_of_mine.py"
    module.write_text('from pocketpipe.targets.cortex_m import CortexM\nfast = CortexM(optimize="-O2")\n')
    monkeypatch.syspath_prepend(tmp_path)
    assert TARGETS.modules_of("boards_of_mine:fast") == ("pocketpipe.targets.cortex_m", "boards_of_mine")
    assert TARGETS.modules_of("cortex_m") == ("pocketpipe.targets.cortex_m",)


def test_a_target_that_means_this_machine_is_stale_on_another(monkeypatch: pytest.MonkeyPatch) -> None:
    before = unchanged()
    other = LEVELS["v3" if "avx512f" in cpu_flags() else "v4"]
    monkeypatch.setattr("pocketpipe.targets.x86_64.cpu_flags", lambda: frozenset(other.flags))
    after = fingerprints()
    assert [stage for stage in ALL if before[stage] != after[stage]] == ALL[7:]


PLUMBING = {
    "apscheduler", "click", "filelock", "google", "kedro", "markupsafe", "mlflow", "omegaconf", "pydantic",
    "pydantic_core", "rich", "safetensors", "yaml",
}  # fmt: skip
"""Packages that carry and tell results, and decide none."""


def test_engines_of_a_stage_are_all_that_its_modules_import() -> None:
    """onnxruntime answers for the golden vectors of `compile`; an upgrade of it must not leave them fresh."""
    catalog = DataCatalog.from_config(loader()["catalog"])
    found = ingredients(register_pipelines()["compress"], catalog, read_config(loader()["parameters"]))
    engines = {entry.stage: set(entry.engines) for entry in found.values()}
    assert engines["compile"] >= {"apache-tvm", "numpy", "onnx", "onnxruntime", "ziglang"}
    assert engines["evaluate"] >= {"numpy", "onnx", "onnxruntime", "torch"}
    assert engines["report"] >= {"jinja2", "matplotlib"}
    assert engines["export"] >= {"onnx", "onnxscript", "torch"}


def test_every_package_that_the_house_imports_is_an_engine_or_decides_nothing() -> None:
    house = PROJECT / "src/pocketpipe"
    sources = [read_source(file, file.stem) for file in house.rglob("*.py")]
    imported = {name.partition(".")[0] for source in sources for name in source.imports}
    installed = {name for name in imported if name in packages_distributions()} - {"pocketpipe"}
    assert installed - PLUMBING == set(ENGINES)


def test_all_data_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    look_up = DataRoot.look_up
    monkeypatch.setattr(DataRoot, "look_up", lambda self, config: (read.append(1), look_up(self, config))[1])
    fingerprints()
    assert len(read) == 1


def test_a_request_is_another_when_the_users_code_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "network_of_mine.py"
    monkeypatch.syspath_prepend(tmp_path)
    config = read_config(loader()["parameters"] | {"network": {"name": "network_of_mine:build"}})

    def request(width: int) -> str:
        module.write_text(f"def build(shape, outputs): return {width}\n")
        os.utime(module, ns=(0, width))
        return request_fingerprint({}, config)

    assert request(1) != request(2)


def test_every_file_of_the_house_that_is_no_python_belongs_to_a_stage(tmp_path: Path) -> None:
    """In a copy of the house, files are changed one after another."""
    house = tmp_path / "house" / "pocketpipe"
    shutil.copytree(PROJECT / "src/pocketpipe", house, ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run(
        [sys.executable, "-B", "-c", _STALE_BY_FILE], cwd=house, env=os.environ | {"PYTHONPATH": str(house.parent)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    stale = json.loads(done.stdout)
    assert stale["targets/c99/cortex_m.ld"] == ["cortex_m"]
    assert "x86_64" in stale["delivery/runner.c"]
    assert stale["reporting/style.css.jinja"] == ["report"]
    assert [file for file, stages in stale.items() if not stages] == []


_STALE_BY_FILE = """
import json
from pathlib import Path
from pocketpipe.lineage.code import code_of
from pocketpipe.targets.base import TARGETS

targets = ("x86_64", "fpga", "armv7", "cortex_m")
stages = {name: ["pocketpipe.pipelines.compile.nodes", *TARGETS.modules_of(name)] for name in targets}
stages["report"] = ["pocketpipe.pipelines.report.nodes"]
before = {stage: code_of(modules).digest for stage, modules in stages.items()}
files = [file for file in Path().rglob("*.*") if file.suffix != ".py" and file.name != "py.typed"]
stale = {}
for file in files:
    content = file.read_bytes()
    file.write_bytes(content + b" ")
    stale[file.as_posix()] = [stage for stage in stages if code_of(stages[stage]).digest != before[stage]]
    file.write_bytes(content)
print(json.dumps(stale))
"""


def test_a_teachers_file_counts_where_a_recipe_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POCKETPIPE_DATA", str(tmp_path))
    (tmp_path / "w").write_bytes(b"one")
    distillation = {"teachers": [{"name": "resnet8", "weights": "w"}]}
    before = fingerprints(finetune__distillation=distillation)
    assert fingerprints(finetune__distillation=distillation) == before
    (tmp_path / "w").write_bytes(b"other")
    after = fingerprints(finetune__distillation=distillation)
    assert [stage for stage in ALL if before[stage] != after[stage]] == ALL[ALL.index("finetune") :]


def test_all_outputs_and_workspaces_get_the_fingerprint_of_their_node() -> None:
    pipeline = register_pipelines()["compress"]
    catalog = DataCatalog.from_config(loader()["catalog"])
    found = ingredients(pipeline, catalog, read_config(loader()["parameters"]))
    hand_over(pipeline, catalog, found)
    for node in pipeline.nodes:
        for output in node.outputs:
            assert catalog[output].fingerprint == found[node.name].fingerprint, output
    assert catalog["finetune_workspace"].fingerprint == found["finetune.finetune_student"].fingerprint


@pytest.mark.parametrize("recipe", sorted(path.name for path in (PROJECT / "conf").iterdir() if path.is_dir()))
def test_every_recipe_reads(recipe: str) -> None:
    read_config(OmegaConfigLoader(str(PROJECT / "conf"), env=recipe, **settings.CONFIG_LOADER_ARGS)["parameters"])
