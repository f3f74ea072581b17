"""The configuration: typed, unknown keys refused, all mistakes together with what is allowed."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from pocketpipe.config import read_config
from pocketpipe.errors import Mistakes

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


def test_an_unknown_key_is_answered_with_its_sections_keys() -> None:
    (line,) = mistakes(budget={"speed_up": 2, "speedup": 2})
    assert line.startswith("budget.speed_up: 2 is not an option; options: speedup, compression, accuracy_drop")


def test_a_key_of_a_section_within_a_section() -> None:
    recipe = parameters()["finetune"] | {"distillation": {"wait": 1}}
    (line,) = mistakes(finetune=recipe)
    assert line == "finetune.distillation.wait: 1 is not an option; options: weight, temperature, outputs, features, teachers, cached_views"


def test_a_missing_section() -> None:
    short = parameters()
    del short["budget"]
    with pytest.raises(Mistakes, match="budget: missing; it must be given"):
        read_config(short)


def test_several_mistakes_come_together() -> None:
    lines = mistakes(budget={"speedup": 0.5}, seed=-1, targets=[])
    assert [line.split(":")[0] for line in lines] == ["budget.speedup", "targets", "seed"]
