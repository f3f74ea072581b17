"""The configuration: typed, unknown keys refused, all mistakes together with what is allowed."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from pocketpipe.config import read_config, with_multiples
from pocketpipe.errors import Mistakes
from pocketpipe.freshness import request_fingerprint

BASE = Path(__file__).parents[1] / "conf" / "base"


def parameters() -> dict[str, Any]:
    files = (BASE / "parameters.yml", BASE / "parameters_stages.yml")
    return {key: value for file in files for key, value in yaml.safe_load(file.read_text()).items()}


def mistakes(**changes: Any) -> tuple[str, ...]:
    with pytest.raises(Mistakes) as caught:
        read_config(parameters() | changes)
    return caught.value.lines


def test_the_default_reads() -> None:
    assert read_config(parameters()).registered_name == "digits-resnet8"


@pytest.mark.parametrize(
    ("methods", "targets", "multiple"),
    [
        (["quantization"], ["aarch64", "x86_64-v4"], 8),
        ([], ["aarch64", "x86_64-v4"], 16),
        ([], ["aarch64", "x86_64-v3"], 8),
        ([{"quantization": {"weight_bits": 4}}], ["fpga", "aarch64-cortex-a76"], 4),
        ([{"quantization": {"weight_bits": 4}}], ["fpga", "aarch64-cortex-a53"], 8),
        (["quantization"], ["cortex_m"], 1),
    ],
)
def test_multiples_by_the_targets_are_a_number(methods: list[Any], targets: list[str], multiple: int) -> None:
    asked = parameters() | {
        "methods": [{"channels": {"multiple": "targets", "minimum": 2}}, *methods],
        "targets": targets,
    }
    read = read_config(with_multiples(asked))
    assert read.methods[0].options == {"multiple": multiple, "minimum": 2}
    assert read.methods[1:] == read_config(asked).methods[1:]
    assert asked["methods"][0] == {"channels": {"multiple": "targets", "minimum": 2}}, "what was passed in is unchanged"


@pytest.mark.parametrize("change", [{"targets": ["x68_64"]}, {"targets": None}, {"methods": [["channels"]]}, {}])
def test_parameters_without_such_multiples_or_with_mistakes_stay(change: dict[str, Any]) -> None:
    asked = parameters() | {"methods": [{"channels": {"multiple": "targets"}}]} | change
    asked = asked if change else parameters()
    assert with_multiples(asked) is asked


def test_an_unknown_key_is_answered_with_its_sections_keys() -> None:
    (line,) = mistakes(budget={"speed_up": 2, "speedup": 2})
    assert line.startswith("budget.speed_up: 2 is not an option; options: speedup, compression, accuracy_drop")


def test_a_key_of_a_section_within_a_section() -> None:
    recipe = parameters()["finetune"] | {"distillation": {"wait": 1}}
    (line,) = mistakes(finetune=recipe)
    options = "weight, temperature, outputs, mistakes, features, teachers, cached_views"
    assert line == f"finetune.distillation.wait: 1 is not an option; options: {options}"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            {"distillation": {"features": {"kind": "attention", "wait": 1}}},
            "finetune.distillation.features.wait: 1 is not an option; options: kind, weight, points",
        ),
        (
            {"distillation": {"outputs": {"kind": "dkd", "alfa": 1}}},
            "finetune.distillation.outputs.alfa: 1 is not an option; options: kind, alpha, beta, warmup",
        ),
        (
            {"distillation": {"features": {"kind": "atention"}}},
            "finetune.distillation.features.kind: 'atention' is unknown; known: 'attention', 'hints'",
        ),
        (
            {"distillation": {"features": {"points": ["a"]}}},
            "finetune.distillation.features.kind: missing; it must be given",
        ),
        (
            {"distillation": {"teachers": [{"name": "resnet8", "weights": "w", "weight": 1}]}},
            "finetune.distillation.teachers.0.weight: 1 is not an option; options: name, weights, options",
        ),
        ({"stages": {"by": "portions", "count": 2}}, "finetune.stages.epochs: missing; it must be given"),
    ],
)
def test_where_a_kind_is_chosen_its_own_keys_are_told(change: dict[str, Any], line: str) -> None:
    assert mistakes(finetune=parameters()["finetune"] | change) == (line,)


def test_features_are_not_cached() -> None:
    distillation = {"features": {"kind": "hints"}, "cached_views": 8}
    (line,) = mistakes(finetune=parameters()["finetune"] | {"distillation": distillation})
    assert line.endswith("features are too large to be cached; set cached_views or features to null")


def test_a_recipe_before_the_cut_that_does_not_prepare_it_is_refused() -> None:
    (line,) = mistakes(sparsify=parameters()["finalists"])
    assert line.startswith("sparsify: ")
    assert line.endswith("set group_sparsity or auxiliary, which prepare the cut; or sparsify to null")


def test_a_missing_section() -> None:
    short = parameters()
    del short["budget"]
    with pytest.raises(Mistakes, match="budget: missing; it must be given"):
        read_config(short)


def test_a_number_without_end_is_refused() -> None:
    (line,) = mistakes(promote={"margin": 0.005, "max_metric_fall": float("inf")})
    assert line == "promote.max_metric_fall: it must be a finite number"


@pytest.mark.parametrize("seed", [1.0, "1", True])
def test_a_seed_of_another_type_would_draw_something_else(seed: Any) -> None:
    (line,) = mistakes(seed=seed)
    assert line.startswith(f"seed: {seed!r}: Input should be a valid integer")


@pytest.mark.parametrize("weights", [1, True, [], {}])
def test_weights_that_are_no_path_are_refused(weights: Any) -> None:
    (line,) = mistakes(network={"name": "resnet8", "weights": weights})
    assert line.startswith(f"network.weights: {weights!r}: Input is not a valid path")


def test_keys_of_options_may_be_numbers() -> None:
    """YAML has them, and a factory may ask for `dict[int, str]`."""
    names = {"name": "digits", "options": {"names": {0: "cat", 1: "dog"}}}
    read = read_config(parameters() | {"task": names})
    assert read.registered_name.startswith("digits-resnet8-")
    assert request_fingerprint({}, read)


def test_several_mistakes_come_together() -> None:
    lines = mistakes(budget={"speedup": 0.5}, seed=-1, targets=[])
    assert [line.split(":")[0] for line in lines] == ["budget.speedup", "targets", "seed"]
